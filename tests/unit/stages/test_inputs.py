"""What a configuration reads, which a pipeline hashes."""

from rlhf.stages.inputs import paths_of


def test_the_file_of_a_reader_is_read():
    data = {"path": "sums.tsv", "reader": "/my/reader.py:table"}
    assert paths_of({"data": data}) == {"data.path": "sums.tsv", "data.reader": "/my/reader.py"}
    assert paths_of({"data": data | {"reader": None}}) == {"data.path": "sums.tsv"}


def test_the_file_of_a_prompt_sets_reader_is_read():
    sets = {"plus": {"path": "p.tsv", "reader": "/my/reader.py:table"}, "minus": {"path": "m.jsonl", "reader": None}}
    assert paths_of({"data": {"path": "", "reader": None, "sets": sets}}) == {
        "data.sets.plus.path": "p.tsv",
        "data.sets.plus.reader": "/my/reader.py",
        "data.sets.minus.path": "m.jsonl",
    }
