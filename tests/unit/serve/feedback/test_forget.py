"""Who is deleted, or withdraws consent, is taken out of exports, and models that learnt from them are named."""

import json
import shutil
from pathlib import Path

import pytest

from rlhf.train.artifact import committing, open_artifact
from rlhf.types import InputError, RunError
from serve.feedback.export import ExportConfig, RowKind, export, trace
from serve.feedback.forget import ForgetConfig, forget, run
from serve.feedback.lineage import lineage
from serve.store.records import Variant
from serve.store.store import Store
from tests.unit.serve.samples import asked, said


def vote(store: Store, prompt: str, answer: str, user: str, value: float) -> None:
    request = asked(prompt, answer, user=user)
    store.requests.record([request])
    store.requests.add_feedback(said(request, "thumb", value))


@pytest.fixture
def pairs(store, tmp_path) -> Path:
    """Pairs of three users; ann has a side of the first and of the second, bob of the first, eve of the others."""
    for user in ("ann", "bob", "eve"):
        store.people.set_consent(user, True, 1.0)
    vote(store, "q1", "good", "ann", 1)
    vote(store, "q1", "bad", "bob", -1)
    vote(store, "q2", "worse", "ann", -1)
    vote(store, "q2", "better", "eve", 1)
    vote(store, "q3", "fine", "eve", 1)
    vote(store, "q3", "坏\u2028的", "eve", -1)
    vote(store, "alone", "unpaired", "ann", 1)
    vote(store, "alone too", "unpaired", "bob", 1)
    return export(store, RowKind.pairs, tmp_path / "runs/pairs", ExportConfig(max_user_share=1.0)).folder


def model(folder: Path, config: dict, parents: list[str] = []) -> Path:  # noqa: B006
    manifest = {"kind": "model", "config": config, "parents": [{"path": parent} for parent in parents]}
    with committing(folder, manifest) as staging:
        (staging / "config.json").write_text("{}")
    return folder


def given(tmp_path: Path, **settings) -> ForgetConfig:
    return ForgetConfig(**{"url": "", "roots": [str(tmp_path / "runs")], **settings})


def leave(store: Store, user: str, how: str) -> None:
    if how == "deleted":
        store.people.delete(user, at=50.0)
    else:
        store.people.set_consent(user, False, 50.0)


@pytest.mark.parametrize("how", ["deleted", "withdrawn"])
def test_rows_of_who_leaves_are_removed_and_the_others_stay_as_they_are(store, pairs, tmp_path, how):
    before = (pairs / "rows.jsonl").read_bytes().splitlines(keepends=True)
    assert len(before) == 3
    assert [request.user for request, _ in trace(store.requests, pairs, 2)] == ["eve", "eve"]
    (pairs / "notes").mkdir()
    (pairs / "notes/mine.txt").write_text("mine")
    assert [each.folder for each in store.exports.of("ann")] == [str(pairs)]
    assert store.exports.to_forget() == []
    leave(store, "ann", how)
    assert [each.folder for each in store.exports.of("ann")] == [str(pairs)], "known after the deletion too"
    [outcome] = forget(store, given(tmp_path))
    assert (outcome.removed, outcome.left, outcome.problem) == (2, 1, None)
    assert (pairs / "rows.jsonl").read_bytes() == before[2]
    assert (pairs / "notes/mine.txt").read_text() == "mine"
    artifact = open_artifact(pairs)
    metrics = artifact.manifest["metrics"]
    rejects = {"unpaired": 1 if how == "deleted" else 2}
    assert metrics == {"rows": 1, "users": 1, "sources": {"votes": 1}, "rejects": rejects}
    assert [each["rows"] for each in artifact.manifest["forgotten"]] == [2]
    assert store.exports.of("ann") == store.exports.of("bob") == store.exports.to_forget() == []
    assert [each.folder for each in store.exports.of("eve")] == [str(pairs)]
    assert forget(store, given(tmp_path)) == []
    leave(store, "eve", how)
    assert [outcome.left for outcome in forget(store, given(tmp_path))] == [0]
    assert (pairs / "rows.jsonl").read_bytes() == b""
    assert "1 rows removed on" in str(lineage(pairs).children[-1].label)


def test_rows_behind_a_link_are_removed(store, pairs, tmp_path):
    elsewhere = tmp_path / "large disk"
    elsewhere.mkdir()
    real = Path(shutil.move(pairs, elsewhere / "pairs"))
    pairs.symlink_to(real)
    store.people.delete("ann", at=50.0)
    assert [(outcome.removed, outcome.left) for outcome in forget(store, given(tmp_path))] == [(2, 1)]
    assert (real / "rows.jsonl").read_bytes().count(b"\n") == 1
    assert pairs.is_symlink()
    assert store.exports.to_forget() == []


@pytest.mark.parametrize("manifest", ['{"kind": "feed', "[]", '{"forgotten": 3}', '{"forgotten": [{}]}'])
def test_an_export_that_is_broken_keeps_no_other_one(store, pairs, tmp_path, manifest):
    whole = export(store, RowKind.pairs, tmp_path / "runs/whole", ExportConfig(max_user_share=1.0)).folder
    (pairs / "manifest.json").write_text(manifest)
    store.people.delete("ann", at=50.0)
    broken, outcome = forget(store, given(tmp_path))
    assert "is no manifest of an export" in broken.problem
    assert (outcome.folder, outcome.removed) == (whole, 2)
    assert [each.folder for each in store.exports.to_forget()] == [str(pairs)]


def test_what_a_killed_run_left_is_removed(store, pairs, tmp_path):
    before = Path(shutil.copytree(pairs, pairs.with_name(".old-pairs")))
    store.people.delete("ann", at=50.0)
    forget(store, given(tmp_path))
    assert not before.exists()
    shutil.copytree(pairs, before)
    forget(store, given(tmp_path, folders=[str(pairs)]))
    assert not before.exists()


def test_consent_given_again_keeps_nothing_from_before(store, pairs, tmp_path):
    store.people.set_consent("ann", False, 50.0)
    store.people.set_consent("ann", True, 60.0)
    assert [outcome.removed for outcome in forget(store, given(tmp_path))] == [2]


def test_what_learnt_from_the_rows_is_named(store, pairs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    direct = model(runs / "dpo/model", {"data": {"path": str(pairs / "rows.jsonl")}})
    relative = model(runs / "sft/model", {"data": {"path": "runs/pairs/rows.jsonl"}})
    held_out = model(runs / "rm/model", {"data": {"path": "owner/rows"}, "held_out": {"path": str(pairs)}})
    later = model(runs / "ppo/model", {"data": {"path": "x/y.jsonl"}, "reward": {"model": str(held_out)}})
    merged = model(runs / "merged", {}, [str(later)])
    served = model(tmp_path / "elsewhere/model", {}, [str(direct)])
    model(runs / "other/model", {"data": {"path": "runs/pairs_2/rows.jsonl"}, "format": "pairs"})
    store.variants.add(Variant(name="new", folder=str(served), files={}, version="v", at=1.0))
    store.people.delete("bob", at=50.0)
    [outcome] = forget(store, given(tmp_path))
    known = {direct, relative, held_out, later, merged, served}
    assert set(outcome.models) == {f"{folder} (model)" for folder in known}
    assert open_artifact(pairs).manifest["forgotten"][0]["models"] == list(outcome.models)
    assert f"{direct} (model)" in str(lineage(pairs).children[-1].label)


def test_an_export_of_a_pipelines_stage_is_followed_and_the_stage_stays_whole(store, pairs, tmp_path):
    stage = tmp_path / "runs/round/files"
    with committing(stage, {"kind": "files", "config": {}}) as staging:
        export(store, RowKind.pairs, staging / "pairs", ExportConfig(max_user_share=1.0))
        (staging / "round.json").write_text("{}")
    assert str(stage / "pairs") in [each.folder for each in store.exports.of("ann")]
    made = model(tmp_path / "runs/dpo/model", {"data": {"path": str(stage / "pairs/rows.jsonl")}})
    store.people.delete("ann", at=50.0)
    _, outcome = forget(store, given(tmp_path))
    assert (outcome.folder, outcome.removed, outcome.models) == (stage / "pairs", 2, (f"{made} (model)",))
    assert set(open_artifact(stage).manifest["files"]) == {
        "pairs/manifest.json", "pairs/rejects.jsonl", "pairs/rows.jsonl", "round.json"
    }  # fmt: skip
    assert store.exports.to_forget() == []


def test_an_export_that_is_not_there_is_marked_until_it_is_found(store, pairs, tmp_path):
    runs, moved = tmp_path / "runs", tmp_path / "moved"
    made = model(runs / "dpo/model", {"data": {"path": str(pairs / "rows.jsonl")}})
    copy = Path(shutil.copytree(pairs, tmp_path / "copy"))
    pairs.rename(moved)
    store.people.delete("ann", at=50.0)
    [outcome] = forget(store, given(tmp_path))
    assert "does not exist: name it in folders" in outcome.problem
    assert outcome.models == (f"{made} (model)",)
    assert [each.problem for each in store.exports.to_forget()] == [outcome.problem]
    with pytest.raises(InputError, match=f"gone: the store knows no export in {moved}x"):
        forget(store, given(tmp_path, gone=[f"{moved}x"]))
    outcomes = forget(store, given(tmp_path, folders=[str(moved), str(copy)]))
    assert [(each.removed, each.problem) for each in outcomes] == [(2, None), (2, None)]
    [noted] = store.exports.all()
    assert (noted.folder, noted.problem) == (str(moved), None)
    assert store.exports.to_forget() == []


def test_an_export_that_was_removed_is_struck_off(store, pairs, tmp_path):
    store.people.delete("ann", at=50.0)
    with pytest.raises(InputError, match=r"gone: .* exists; leave it out"):
        forget(store, given(tmp_path, gone=[str(pairs)]))
    shutil.rmtree(pairs)
    assert forget(store, given(tmp_path, gone=[str(pairs)])) == []
    assert store.exports.all() == store.exports.of("ann") == []


def test_another_export_in_its_place_and_a_damaged_one_are_not_taken_for_it(store, pairs, tmp_path):
    shutil.rmtree(pairs)
    export(store, RowKind.labelled, pairs, ExportConfig(max_user_share=1.0))
    store.people.delete("ann", at=50.0)
    first, second = forget(store, given(tmp_path))
    assert "is another export than the registered one" in first.problem
    assert (second.removed, second.problem) == (3, None)
    (pairs / "rows.jsonl").write_text("{}\n")
    store.people.delete("bob", at=50.0)
    assert all("is not what was written" in each.problem or "is another" in each.problem
               for each in forget(store, given(tmp_path)))  # fmt: skip
    with pytest.raises(InputError, match=r"it has no manifest.json"):
        forget(store, given(tmp_path, folders=[str(tmp_path)]))
    with pytest.raises(InputError, match="it is no export of feedback"):
        forget(store, given(tmp_path, folders=[str(model(tmp_path / "model", {}))]))
    with pytest.raises(InputError, match=r"roots: .*nowhere does not exist"):
        forget(store, given(tmp_path, roots=["nowhere"]))


def test_a_command_that_ended_after_it_wrote_an_export_is_finished_by_the_next(store, pairs, tmp_path):
    [noted] = store.exports.all()
    store.people.delete("ann", at=50.0)
    forget(store, given(tmp_path))
    ids = {id for row in (pairs / "rows.jsonl").read_bytes().splitlines() for id in json.loads(row)["request_ids"]}
    store.exports.remove(noted.id)
    store.people.delete("bob", at=50.0)
    request = asked(user="eve")
    store.requests.record([request])
    store.exports.add(noted, dict.fromkeys([*ids, request.id], "eve"))
    with store.database.writer.begin() as connection:
        connection.exec_driver_sql(f"DELETE FROM requests WHERE id = '{request.id}'")
    [outcome] = forget(store, given(tmp_path))
    assert (outcome.removed, outcome.problem) == (0, None)
    assert store.exports.to_forget() == []


def test_an_export_is_refused_while_a_user_of_its_rows_leaves(store, pairs, tmp_path):
    [noted] = store.exports.all()
    store.exports.remove(noted.id)
    users = {request.id: request.user for request, _ in store.requests.dialogues()}
    store.people.delete("ann", at=50.0)
    with pytest.raises(RunError, match="a user whose rows it holds withdrew while it was written; export again"):
        store.exports.add(noted, users)
    assert store.exports.all() == []


def test_the_command_line(sqlite_url, tmp_path, monkeypatch, capsys):
    store = Store(sqlite_url, consent_by_default=True)
    vote(store, "q", "good", "ann", 1)
    vote(store, "q", "bad", "bob", -1)
    folder = tmp_path / "pairs"
    export(store, RowKind.pairs, folder, ExportConfig())

    def printed(*arguments: str) -> str:
        run([f"url={sqlite_url}", *arguments])
        return capsys.readouterr().out

    assert printed("roots=[]") == "no export holds rows of users who withdrew\n"
    store.people.delete("ann")
    store.close()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="roots: outputs does not exist"):
        printed()
    folder.rename(tmp_path / "moved")
    with pytest.raises(RunError, match="1 exports still hold rows of users who withdrew"):
        printed("roots=[]")
    assert "pairs: " in capsys.readouterr().out
    said = printed("roots=[]", f"folders=[{tmp_path / 'moved'}]")
    assert said == f"{tmp_path / 'moved'}: 1 rows removed, 0 stay; made from it with those rows: none found\n"
