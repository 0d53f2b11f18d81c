"""What a configuration reads, which a pipeline hashes."""

from rlhf.stages.inputs import paths_of


def test_the_file_of_a_reader_is_read():
    data = {"path": "sums.tsv", "reader": "/my/reader.py:table"}
    assert paths_of({"data": data}) == {"data.path": "sums.tsv", "data.reader": "/my/reader.py"}
    assert paths_of({"data": data | {"reader": None}}) == {"data.path": "sums.tsv"}
