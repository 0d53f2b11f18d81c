"""The lineage of a model is told from manifests alone."""

import io

from rich.console import Console

from rlhf.train.artifact import committing
from serve.feedback.lineage import lineage


def test_models_and_rows_of_the_hub_are_told_by_id_and_commit(tmp_path):
    hub = {
        "model": {"id": "owner/tiny@main", "commit": "a" * 40},
        "data.path": {"id": "owner/rows", "commit": "b" * 40},
    }
    parent = {"path": str(tmp_path / "cache"), "manifest": None, **hub["model"]}
    config = {"model": "owner/tiny@main", "data": {"path": "owner/rows"}, "hub": hub}
    with committing(tmp_path / "model", {"kind": "model", "parents": [parent], "config": config}) as staging:
        (staging / "config.json").write_text("{}")
    text = io.StringIO()
    Console(file=text, width=200).print(lineage(tmp_path / "model"))
    assert "model owner/tiny@main of the Hub, commit aaaaaaaaaaaa\n" in text.getvalue()
    assert "data.path owner/rows of the Hub, commit bbbbbbbbbbbb\n" in text.getvalue()
    assert "is gone" not in text.getvalue()
