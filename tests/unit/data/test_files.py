import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf.data.files import read_rows
from rlhf.types import InputError

ROWS = [{"prompt": "你好", "n": 1}, {"prompt": "hello", "n": 2}]


def write(folder: Path, content: bytes, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_jsonl_rows_do_not_depend_on_line_ends_bom_or_escapes(tmp_path, newline, bom, ascii_only):
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in ROWS]
    path = write(tmp_path, bom + newline.join(lines).encode())
    second = newline.count("\n") + 1
    assert list(read_rows(path, "train")) == [(f"{path}:1", ROWS[0]), (f"{path}:{second}", ROWS[1])]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"a": ', "the line is not JSON (Expecting value, column 7): write one object per line, or remove the line"),
        (b'{"a": 1} {"b": 2}', "the line is not JSON (Extra data, column 10)"),
        (b'{"a": NaN}', "the line is not JSON (NaN is no JSON value, null is)"),
        (b'{"a": "\\ud83d"}', "surrogates not allowed"),
        (b"[" * 200_000, "the line is not JSON (maximum recursion depth exceeded"),
        (b"1" * 5000, "the line is not JSON (Exceeds the limit"),
        (b'["a"]', 'the line is a list, not an object: write one {"field": ...} per line'),
        (b"null", "the line is null, not an object"),
        (b'"text"', "the line is text, not an object"),
        (b"3", "the line is a number, not an object"),
        (b'{"a": "\xff"}', "byte 8 of the line (0xff) is not UTF-8: convert the file to UTF-8"),
        (b'{"a": "x\0"}', "the line holds a NUL byte, so it is not text: write the file again as UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, sentence):
    path = write(tmp_path, b'{"a": 1}\n\n' + line + b"\n")
    rows = read_rows(path, "train")
    assert next(rows) == (f"{path}:1", {"a": 1})
    with pytest.raises(InputError, match=re.escape(f"{path}:3: ") + ".*" + re.escape(sentence)):
        next(rows)


def test_utf16_is_refused_in_words(tmp_path):
    path = write(tmp_path, '{"a": 1}\n'.encode("utf-16"))
    with pytest.raises(InputError, match=":1: the line holds a NUL byte"):
        list(read_rows(path, "train"))


LINES = st.sampled_from(
    [b"{}", b'{"a": 1}', '{"a": "你好"}'.encode(), b"", b"  ", b"[1]", b"{", b"\xef\xbb\xbf{}", b"\0", b"\xff", b"-"]
)
FILES = st.binary() | st.tuples(st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(LINES)).map(
    lambda x: x[0].join(x[1])
)


@given(content=FILES)
@example(content=b"\xef\xbb\xbf")
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_rows_or_an_input_error(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), content, "fuzz.jsonl")
    rows, sentence = [], None
    try:
        rows = list(read_rows(path, "train"))
    except InputError as error:
        sentence = str(error)
    if sentence is not None:
        assert sentence.startswith(path)
        assert "\n" not in sentence
    else:
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert [row for _, row in rows] == [json.loads(line) for line in lines if line.strip()]
        assert [int(where.removeprefix(f"{path}:")) for where, _ in rows] == [
            number for number, line in enumerate(lines, start=1) if line.strip()
        ]


def test_paths_without_rows_are_refused(tmp_path):
    forms = "give a .jsonl file, a .parquet file or a folder that datasets can load"
    with pytest.raises(InputError, match=f"{tmp_path}/none.jsonl does not exist: {forms}"):
        read_rows(f"{tmp_path}/none.jsonl", "train")
    with pytest.raises(InputError, match=f"the path of the rows is empty, as that of an unset shell variable: {forms}"):
        read_rows("")
    with pytest.raises(InputError, match=rf"rows.csv has the suffix '.csv', which is not read: {forms}"):
        read_rows(write(tmp_path, b"a,b", "rows.csv"), "train")
    for content in (b"", b"\n\r\n", b"\xef\xbb\xbf"):
        with pytest.raises(InputError, match=f"rows.jsonl holds no rows: {forms} with at least one row"):
            list(read_rows(write(tmp_path, content), "train"))


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match=r"rows.jsonl cannot be read \(Input/output error\): check its permissions"):
        list(read_rows(f"{tmp_path}/rows.jsonl", "train"))


def test_parquet_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = str(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert list(read_rows(path, "train")) == [(f"{path}:row 1", ROWS[0]), (f"{path}:row 2", ROWS[1])]
    Path(path).write_bytes(Path(path).read_bytes()[:40])
    with pytest.raises(InputError, match=r"rows.parquet cannot be read as Parquet after row 0 \(.*\): write the file"):
        list(read_rows(path, "train"))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS).slice(0, 0), path)
    with pytest.raises(InputError, match=r"rows.parquet holds no rows"):
        list(read_rows(path, "train"))


def test_a_folder_saved_by_datasets(tmp_path):
    import datasets

    dataset = datasets.Dataset.from_list(ROWS)
    one, many = str(tmp_path / "one"), str(tmp_path / "many")
    dataset.save_to_disk(one)
    datasets.DatasetDict(test=dataset).save_to_disk(many)
    assert list(read_rows(one, "train")) == [(f"{one}:row 1", ROWS[0]), (f"{one}:row 2", ROWS[1])]
    assert [row for _, row in read_rows(many, "test")] == ROWS
    with pytest.raises(InputError, match=f"{many} has no split 'train', only test: set split to one of them"):
        list(read_rows(many, "train"))
    Path(one, "state.json").write_text("{")
    with pytest.raises(InputError, match=f"{one} cannot be loaded by datasets with split=train"):
        list(read_rows(one, "train"))


def test_a_folder_of_files(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder cannot be loaded by datasets with split=train \(The directory at"):
        list(read_rows(str(folder), "train"))
    write(folder, "".join(json.dumps(row) + "\n" for row in ROWS).encode(), "train.jsonl")
    assert [row for _, row in read_rows(str(folder), "train")] == ROWS
    with pytest.raises(InputError, match=r"with split=test \(Unknown split \"test\". Should be one of \['train'\]\)"):
        list(read_rows(str(folder), "test"))
    write(folder, b'{"prompt": ', "train.jsonl")
    with pytest.raises(InputError, match=r"with split=train \(.*JSON parse error"):
        list(read_rows(str(folder), "train"))
