from rlhf.data.quarantine import Quarantine
from rlhf.models.tokenizer import load_tokenizer
from rlhf.stages.console import MAX_NAMES, names_of, show_left_out


def test_ids_are_shown_by_their_names(models):
    tokenizer = load_tokenizer(str(models["tied"]))
    size = len(tokenizer)
    assert names_of(tokenizer, [0, 1, size, size + 1]) == "<pad>, <eos> and 2 ids without a token"
    assert names_of(tokenizer, [size]) == "1 ids without a token"
    assert names_of(tokenizer, range(MAX_NAMES + 3)).endswith(" and 3 more")


def test_fields_that_nothing_reads_are_listed_once_a_file(capsys):
    quarantine = Quarantine(unread={"a.jsonl": ["id", "[source]"], "b.jsonl": ["tag"]})
    show_left_out(quarantine)
    assert capsys.readouterr().out.splitlines() == [
        "a.jsonl has fields that nothing reads: id, [source]",
        "b.jsonl has fields that nothing reads: tag",
    ]
