"""Documents: nothing of them is lost in cutting, and mixtures hold their ratio."""

import json
import re
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.quarantine import BadRows
from rlhf.data.text import SHORTEST, TextDataConfig, chunks, num_tokens, sample_documents
from rlhf.types import InputError, TrainingRow

ENGLISH = ["The quick brown fox.", "Let me think\n\nabout it.", "What is 12 + 30?"]
CHINESE = ["今天天气很好，我们一起去公园散步吧。", "请把这个句子翻译成英文。"]


def write(folder, name, documents, key="text"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps({key: text}, ensure_ascii=False) + "\n" for text in documents), encoding="utf-8")
    return str(path)


def load(tokenizer, context_tokens=400, **settings):
    config = TextDataConfig(**settings)
    return config.load(tokenizer, context_tokens=context_tokens, quarantine=config.quarantine())


def load_parts(tokenizer, fraction, **settings):
    config = TextDataConfig(**settings)
    quarantine = config.quarantine()
    return config.load_parts(tokenizer, context_tokens=400, quarantine=quarantine, held_out_fraction=fraction, seed=0)


def texts(tokenizer, units):
    """Rows of one document joined."""
    assert all(len(unit) == 1 for unit in units)
    joined = [
        np.concatenate([row.token_ids for row in rows])
        for _, rows in groupby([unit[0] for unit in units], key=lambda row: (row.source, row.prompt_id))
    ]
    return [tokenizer.decode(token_ids, clean_up_tokenization_spaces=False) for token_ids in joined]


@pytest.mark.parametrize("name", ["bytes_tokenizer", "chars_tokenizer"])
@pytest.mark.parametrize("max_tokens", [None, 7])
def test_documents_end_and_are_learnt_whole(tmp_path, request, name, max_tokens):
    tokenizer = request.getfixturevalue(name)
    units = load(tokenizer, path=write(tmp_path, "a.jsonl", ENGLISH + CHINESE), max_tokens=max_tokens)
    assert texts(tokenizer, units) == [f"{text}<|im_end|>" for text in ENGLISH + CHINESE]
    for (row,) in units:
        assert row.token_ids.dtype == np.int32
        assert row.loss_mask.tolist() == [False] + [True] * (row.num_tokens - 1)
        assert 2 <= row.num_tokens <= (max_tokens or 400)
    assert (len(units) == 5) == (max_tokens is None)
    assert [unit[0].source for unit in units][-1] == f"{tmp_path}/a.jsonl:5"


def test_a_tokenizer_needs_no_chat_template_and_its_own_start_of_text_stays(tmp_path, byte_level):
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level(None)
    start = ("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[start])
    units = load(tokenizer, path=write(tmp_path, "a.jsonl", ["你好"]))
    assert texts(tokenizer, units) == ["<|im_start|>你好<|im_end|>"]
    tokenizer.eos_token = None
    with pytest.raises(
        InputError, match=r"^models/bytes has no end-of-sequence token to end documents with: set eos_tok"
    ):
        load(tokenizer, path=write(tmp_path, "a.jsonl", ["你好"]))


def test_a_text_file_is_a_document(tmp_path, bytes_tokenizer):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "b.txt").write_text("第一段。\n\n第二段。", encoding="utf-8-sig")
    (folder / "a.txt").write_text("hello", encoding="utf-8")
    units = load(bytes_tokenizer, path=str(folder / "b.txt"))
    assert texts(bytes_tokenizer, units) == ["第一段。\n\n第二段。<|im_end|>"]
    units = load(bytes_tokenizer, path=str(folder))
    assert texts(bytes_tokenizer, units) == ["hello<|im_end|>", "第一段。\n\n第二段。<|im_end|>"]
    assert [unit[0].source for unit in units] == [f"{folder}/a.txt:1", f"{folder}/b.txt:1"]
    with pytest.raises(InputError, match=f"^{tmp_path}/none.txt cannot be read \\(No such file or directory\\): check"):
        load(bytes_tokenizer, path=f"{tmp_path}/none.txt")
    (folder / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=f"^{folder}/c.txt:1: byte 4 of the file \\(0xe9\\) is not UTF-8: convert it"):
        load(bytes_tokenizer, path=str(folder))
    units = load(bytes_tokenizer, path=str(folder), bad_rows=BadRows.quarantine, max_rejected_fraction=0.4)
    assert len(units) == 2


def test_parquet_and_another_field(tmp_path, bytes_tokenizer):
    import datasets

    datasets.Dataset.from_list([{"body": text} for text in CHINESE]).to_parquet(str(tmp_path / "a.parquet"))
    units = load(bytes_tokenizer, path=str(tmp_path / "a.parquet"), text_key="body")
    assert texts(bytes_tokenizer, units) == [f"{text}<|im_end|>" for text in CHINESE]
    with pytest.raises(
        InputError, match=r":row 1: the row has no field 'text', its fields are 'body': set text_key to"
    ):
        load(bytes_tokenizer, path=str(tmp_path / "a.parquet"))


@given(num=st.integers(2, 500), size=st.integers(SHORTEST, 60))
def test_chunks_lose_nothing_and_leave_something_to_learn_in_each(num, size):
    token_ids = np.arange(num, dtype=np.int32)
    cut = chunks(token_ids, size)
    assert np.concatenate(cut).tolist() == token_ids.tolist()
    assert all(2 <= len(chunk) <= size for chunk in cut)
    assert len(cut) == -(-num // size)
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


def document(number, lengths):
    return [
        (TrainingRow(
            token_ids=np.full(length, number, dtype=np.int32), loss_mask=np.arange(length) > 0,
            source=f"f:{number}", prompt_id=str(number),
        ),)
        for length in lengths
    ]  # fmt: skip


DOCUMENTS = st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=3), min_size=1, max_size=8)


@given(lengths=DOCUMENTS, wanted=st.integers(0, 300), seed=st.integers(0, 3))
@settings(deadline=None)
def test_whole_documents_are_taken_until_the_ratio_holds(lengths, wanted, seed):
    units = [unit for number, each in enumerate(lengths) for unit in document(number, each)]
    taken = sample_documents(units, wanted, seed)
    assert taken == sample_documents(units, wanted, seed)
    longest = max(map(sum, lengths))
    assert wanted <= num_tokens(taken) < wanted + longest
    order = [int(unit[0].prompt_id) for unit in taken]
    rows = iter(taken)
    counts = np.zeros(len(lengths), dtype=int)
    while (first := next(rows, None)) is not None:
        number = int(first[0].prompt_id)
        counts[number] += 1
        whole = [first, *(next(rows) for _ in lengths[number][1:])]
        assert whole == [unit for unit in units if unit[0].prompt_id == str(number)], "in order, and whole"
    assert counts.max() - counts.min() <= 1, "none is taken again before all are taken"
    assert len(order) == len(taken)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 5.0])
def test_a_mixture(tmp_path, bytes_tokenizer, ratio):
    domain, general = write(tmp_path, "d.jsonl", CHINESE), write(tmp_path, "g.jsonl", ENGLISH)
    parts = load_parts(bytes_tokenizer, 0.0, path=domain, general_path=general, ratio=ratio)
    assert texts(bytes_tokenizer, parts.train[:2]) == [f"{text}<|im_end|>" for text in CHINESE]
    assert {unit[0].source.split(":")[0] for unit in parts.train[2:]} == {general}
    figures = parts.figures
    assert figures["domain_tokens"] == num_tokens(parts.train[:2])
    assert figures["general_tokens"] == num_tokens(parts.train[2:])
    assert ratio <= figures["general_tokens"] / figures["domain_tokens"] < ratio + 1
    available = num_tokens(load(bytes_tokenizer, path=general))
    assert figures["general_passes"] == figures["general_tokens"] / available
    assert not parts.held_out


def test_held_out_documents_are_of_both_kinds_and_in_no_other_part(tmp_path, bytes_tokenizer):
    domain = write(tmp_path, "d.jsonl", [f"{i} 很好 " * 6 for i in range(20)])
    general = write(tmp_path, "g.jsonl", [f"{i} fox " * 6 for i in range(100)])
    settings = {"path": domain, "general_path": general, "ratio": 10.0, "max_tokens": 16}
    parts = load_parts(bytes_tokenizer, 0.2, **settings)
    assert parts.held_out.keys() == {"held_out_domain", "held_out_general"}
    kept = {unit[0].source for unit in parts.train}
    for name, path in (("held_out_domain", domain), ("held_out_general", general)):
        held_out = {unit[0].source for unit in parts.held_out[name]}
        assert held_out
        assert {source.split(":")[0] for source in held_out} == {path}
        assert not held_out & kept
    assert len({unit[0].source for unit in parts.held_out["held_out_domain"]}) == 4
    assert len(parts.held_out["held_out_general"]) <= len(parts.held_out["held_out_domain"])
    assert sum(source.startswith(domain) for source in kept) == 16
    alone = load_parts(bytes_tokenizer, 0.2, path=domain)
    assert alone.held_out.keys() == {"held_out_domain"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ratio": -1.0}, "ratio=-1.0: give general tokens for each token of the domain, as in 5.0"),
        ({"ratio": float("nan")}, "ratio=nan: give general tokens for each token of the domain"),
        ({"ratio": float("inf")}, "ratio=inf: give general tokens for each token of the domain"),
        ({"ratio": 0.0, "general_path": "g.jsonl"}, "ratio=0.0 leaves out g.jsonl: give more, or general_path=null"),
        ({"max_tokens": 2}, "max_tokens=2: rows of a document have at least 3; raise it"),
        ({"max_tokens": 0}, "max_tokens=0 leaves nothing: set it to at least 1"),
    ],
)
def test_a_mixture_that_is_none(settings, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        TextDataConfig(**settings)


def test_bad_documents(tmp_path, bytes_tokenizer):
    path = write(tmp_path, "a.jsonl", ["好", " \n", "好"])
    with pytest.raises(InputError, match=re.escape(f"{path}:2: the field 'text' is empty: fill it in, or remove")):
        load(bytes_tokenizer, path=path)
    with pytest.raises(InputError, match=re.escape(f"{path}:2: the field 'text' is empty: fill it in, or remove")):
        load(bytes_tokenizer, path=write(tmp_path, "b.jsonl", ["好"]), general_path=path)
    with pytest.raises(
        InputError, match="1 rows of 1 prompts or documents cannot be split with 1 held out: the rows of"
    ):
        load_parts(bytes_tokenizer, 0.5, path=write(tmp_path, "b.jsonl", ["好"]))


def test_a_document_that_is_an_end_of_sequence_alone_has_nothing_to_learn(bytes_tokenizer, tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text(json.dumps({"text": bytes_tokenizer.eos_token}), encoding="utf-8")
    with pytest.raises(InputError, match=r"documents.jsonl:1: the field 'text' is only an end of sequence"):
        load(bytes_tokenizer, path=str(path))
