"""Ids of the Hub, against a server that speaks its routes: what is downloaded, what is kept, what is said."""

import functools
import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download

from rlhf.config import CompareConfig, OnlineConfig, SFTRunConfig, as_plain, compose
from rlhf.data.files import read_rows
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.hub import Snapshot, download, parse
from rlhf.offline_config import HeldOutConfig
from rlhf.pipelines.config import PipelineConfig, StageConfig
from rlhf.pipelines.plan import steps_of
from rlhf.rewards.base import RewardConfig
from rlhf.stages.model_files import manifest_of
from rlhf.stages.snapshots import with_snapshots
from rlhf.sweeps.plan import Plan
from rlhf.train.run_folder import open_run_folder
from rlhf.types import InputError, RunError
from tests.oracles.hub import Hub, serving

CONF = Path(__file__).parents[3] / "conf"
KINDS = {"model": ("models", "owner/tiny"), "data.path": ("datasets", "owner/rows")}
MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "chat_template.jinja": b"{{ messages }}",
}
UNREAD = {
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"weights",
    "README.md": b"",
    "modeling_m.py": b"",
}
ROWS = b'{"prompt": "1+1=", "response": "2"}\n'


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of this test's own, in reach, and an empty cache."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.publish("owner/tiny", {**MODEL, **UNREAD})
        hub.publish("owner/rows", {"README.md": b"", "train.jsonl": ROWS, "more/test.jsonl": ROWS * 2}, "datasets")
        yield hub


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def get(text: str, repo_type: str = "model", commit: str | None = None) -> tuple[Path, str]:
    source = parse("model" if repo_type == "model" else "data.path", text, repo_type)
    assert source is not None
    return download(source, commit)


def sentence(text: str, repo_type: str = "model", kind: type[Exception] = InputError) -> str:
    with pytest.raises(kind) as caught:
        get(text, repo_type)
    return str(caught.value)


def test_what_exists_and_what_looks_like_a_file_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    for text in ("owner/tiny", "data/rows.jsonl", "/owner/other", "./owner/other", "a/b/c", "Qwen3-8B", "~/models", ""):
        assert parse("model", text, "model") is None
    for text, revision in (("owner/other", None), ("Qwen/Qwen2.5-0.5B", None), ("o/n@refs/pr/1", "refs/pr/1")):
        found = parse("model", text, "model")
        assert (found.name, found.revision) == (text.partition("@")[0], revision)
    found = parse("data.path", "o/n@v1:main/train.jsonl", "dataset")
    assert (found.name, found.revision, found.path) == ("o/n", "v1", "main/train.jsonl")
    with pytest.raises(InputError, match=r"^model=o/n:x: a model is a whole repository; leave out :x$"):
        parse("model", "o/n:x", "model")


def test_a_model_is_downloaded_once_without_what_is_not_read(hub):
    folder, commit = get("owner/tiny")
    assert commit == hub.repositories["models", "owner/tiny"].branches["main"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == MODEL
    hub.requests.clear()
    assert get("owner/tiny@main") == (folder, commit)
    assert [request for request in hub.requests if "resolve" in request] == []


def test_revisions_are_branches_and_commits(hub):
    old = hub.repositories["models", "owner/tiny"].branches["main"]
    new = hub.publish("owner/tiny", {**MODEL, "model.safetensors": b"better"})
    other = hub.publish("owner/tiny", {**MODEL, "model.safetensors": b"other"}, branch="refs/pr/1")
    for text, commit, weights in (
        ("owner/tiny", new, b"better"),
        (f"owner/tiny@{old}", old, b"weights"),
        ("owner/tiny@refs/pr/1", other, b"other"),
    ):
        folder, found = get(text)
        assert (found, (folder / "model.safetensors").read_bytes()) == (commit, weights)
    hub.requests.clear()
    assert get(f"owner/tiny@{old}")[1] == old
    assert hub.requests == [], "a commit in the cache asks nobody"


def test_a_data_set_is_a_folder_or_a_file_in_it(hub):
    for text, number in (("owner/rows", 1), ("owner/rows:train.jsonl", 1), ("owner/rows@main:more/test.jsonl", 2)):
        path, commit = get(text, "dataset")
        assert commit == hub.repositories["datasets", "owner/rows"].branches["main"]
        split = "train"
        assert [row["response"] for _, row in read_rows(str(path), split)] == ["2"] * number
    assert len(list(read_rows(str(get("owner/rows:more", "dataset")[0]), "test"))) == 2
    assert sentence("owner/rows:absent.jsonl", "dataset") == (
        "data.path=owner/rows:absent.jsonl: it has no absent.jsonl, only README.md, more, train.jsonl; name one of them"
    )


def test_offline_the_cache_is_used_and_what_it_lacks_is_said(hub, offline, tmp_path):
    online = get("owner/tiny")
    get("owner/rows:train.jsonl", "dataset")
    offline()
    hub.requests.clear()
    assert get("owner/tiny") == get(f"owner/tiny@{online[1]}") == online
    assert get("owner/rows:train.jsonl", "dataset")[0].name == "train.jsonl"
    assert sentence("owner/other@v1") == (
        f"model=owner/other@v1: there is no such file or folder, the Hub's cache ({tmp_path / 'cache'}) does not hold "
        "this model at v1 as a whole, and HF_HUB_OFFLINE is set; correct the path, or run once with HF_HUB_OFFLINE=0 "
        "to download it"
    )
    assert "does not hold this dataset as a whole" in sentence("owner/rows", "dataset"), "one file of it is not all"
    (online[0] / "model.safetensors").unlink()
    assert "does not hold this model as a whole" in sentence("owner/tiny")
    assert hub.requests == []


SHARDED = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}',
    "1.safetensors": b"first",
    "2.safetensors": b"second",
}
THREE = {f"{name}.jsonl": ROWS for name in "abc"}


def single_files(hub: Hub, text: str, repo_type: str, *names: str) -> None:
    """Download files one by one, as another program does."""
    name, _, revision = text.partition("@")
    for file in names:
        hf_hub_download(name, file, repo_type=repo_type, revision=revision or None, endpoint=hub.endpoint)


def test_what_other_programs_left_of_a_repository_is_completed(hub):
    rows, model = hub.publish("o/three", THREE, "datasets"), hub.publish("o/shards", SHARDED)
    single_files(hub, f"o/three@{rows}", "dataset", "a.jsonl")
    single_files(hub, f"o/shards@{model}", "model", "config.json", "1.safetensors")
    for text, repo_type, files in ((f"o/three@{rows}", "dataset", THREE), (f"o/shards@{model}", "model", SHARDED)):
        folder, _ = get(text, repo_type)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    hub.requests.clear()
    get(f"o/three@{rows}", "dataset"), get(f"o/shards@{model}")
    assert hub.requests == [], "what is whole asks nobody"


def test_what_other_programs_left_of_a_repository_is_refused_offline(hub, offline):
    hub.publish("o/three", THREE, "datasets")
    hub.publish("o/shards", SHARDED)
    single_files(hub, "o/three", "dataset", "a.jsonl")
    single_files(hub, "o/shards", "model", "config.json", "1.safetensors")
    offline()
    assert "does not hold this dataset as a whole" in sentence("o/three", "dataset")
    assert "does not hold this model as a whole" in sentence("o/shards")
    assert get("o/three:a.jsonl", "dataset")[0].read_bytes() == ROWS, "a file that is named is whole"
    assert "does not hold this dataset as a whole" in sentence("o/three:b.jsonl", "dataset")


def test_snapshots_of_other_programs_are_used_offline(hub, offline):
    commit = hub.publish("o/three", THREE, "datasets")
    snapshot_download("o/three", repo_type="dataset", endpoint=hub.endpoint)
    hub.publish("o/shards", SHARDED)
    snapshot_download("o/shards", allow_patterns=["1.safetensors", "*.json"], endpoint=hub.endpoint)
    offline()
    folder, found = get("o/three", "dataset")
    assert (found, sorted(path.name for path in folder.iterdir())) == (commit, sorted(THREE))
    assert "does not hold this model as a whole" in sentence("o/shards"), "a part was asked for"
    assert sentence("o/three:d.jsonl", "dataset") == (
        "data.path=o/three:d.jsonl: it has no d.jsonl, only a.jsonl, b.jsonl, c.jsonl; name one of them"
    )


def test_a_hub_that_breaks_off_leaves_no_part(hub):
    commit = hub.publish("o/three", THREE, "datasets")
    single_files(hub, "o/three", "dataset", "a.jsonl")
    hub.broken = "/tree/"
    assert sentence("o/three", "dataset", RunError) == (
        f"data.path=o/three: {hub.endpoint} does not list the files of commit {commit}; run the same command again, or "
        "set HF_ENDPOINT to another mirror"
    )


def test_what_cannot_be_had_is_said(hub, monkeypatch):
    address = re.escape(hub.endpoint)
    hub.publish("owner/gated", MODEL)
    hub.repositories["models", "owner/gated"].token = "hf_secret"
    hub.publish("owner/pickled", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    hub.publish("owner/scripted", {"scripted.py": b"", "data.json": b"{}"}, "datasets")
    hub.publish("owner/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"adapter"})
    for text, repo_type, expected in (
        ("owner/absent", "model", rf"=owner/absent: there is no such .*{address} has no model of that name.*HF_TOKEN"),
        ("owner/rows", "model", r"has no model of that name"),
        ("owner/tiny", "dataset", r"has no dataset of that name"),
        ("owner/tiny@v9", "model", rf"model=owner/tiny@v9: {address} has no revision 'v9' of it; name a branch, a tag"),
        (f"owner/tiny@{'0' * 40}", "model", r"has no revision '0{40}' of it"),
        ("owner/gated", "model", rf"it is gated; accept its conditions on {address}/owner/gated and set HF_TOKEN"),
        ("owner/pickled", "model", r"it has no \*\.safetensors; name a model whose weights are in safetensors"),
        ("owner/lora", "model", r"^model=owner/lora: it is an adapter \(LoRA\), not a model; merge it into its base"),
        ("owner/scripted", "dataset", r"loading script \(scripted\.py\).*owner/scripted@refs/convert/parquet"),
        ("owner/a--b", "model", r"it is neither a path nor an id of the Hub"),
    ):  # fmt: skip
        said = sentence(text, repo_type)
        assert re.search(expected, said), said
        assert "\n" not in said
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert (get("owner/gated")[0] / "model.safetensors").is_file()


def test_a_hub_that_is_not_in_reach_is_said(hub, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        said = sentence("owner/tiny", kind=RunError)
    assert re.fullmatch(
        r"model=owner/tiny: there is no such file or folder, and http://127\.0\.0\.1:\d+ cannot be reached "
        r"\(ConnectError: .*\); check the network, name a mirror \(HF_ENDPOINT=https://\.\.\.\), or set "
        r"HF_HUB_OFFLINE=1 to use what is cached",
        said,
    )  # fmt: skip


def test_a_mirror_that_is_none_is_said(hub, tmp_path, monkeypatch):
    page = tmp_path / "site" / "api" / "models" / "owner" / "tiny"
    page.parent.mkdir(parents=True)
    page.write_text("<html>Log in to the network</html>")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        page_said, missing_said = sentence("owner/tiny", kind=RunError), sentence("owner/other", kind=RunError)
        server.shutdown()
    assert re.search(
        r"http://127\.0\.0\.1:\d+ sent an invalid or incomplete answer.*set HF_ENDPOINT to another", page_said
    )
    assert re.search(r"answers with error 404; try again later, or set HF_ENDPOINT to a mirror$", missing_said)


def test_a_run_records_ids_and_commits_and_keeps_them(hub, tmp_path):
    def config(model: str = "owner/tiny", rows: str = "owner/rows@main:train.jsonl") -> SFTRunConfig:
        output = str(tmp_path / "run")
        return SFTRunConfig(model=model, output=output, data=SupervisedDataConfig(path=rows))

    first = hub.repositories["models", "owner/tiny"].branches["main"]
    started = with_snapshots(config())
    assert Path(started.model).is_dir()
    assert Path(started.data.path).read_bytes() == ROWS
    assert with_snapshots(started) == started
    plain = as_plain(started)
    assert (plain["model"], plain["data"]["path"]) == ("owner/tiny", "owner/rows@main:train.jsonl")
    assert plain["hub"]["model"] == {"id": "owner/tiny", "commit": first}
    assert plain["hub"].keys() == {"model", "data.path"}
    (parent,) = manifest_of(started, started.model)["parents"]
    assert parent == {"path": started.model, "manifest": None, "id": "owner/tiny", "commit": first}
    with open_run_folder(started.output, plain):
        pass
    hub.publish("owner/tiny", {**MODEL, "model.safetensors": b"better"})
    continued = with_snapshots(config())
    assert continued == started, "the main branch moved; the run keeps its commit"
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert with_snapshots(config()) == started, "so it does where the cache was emptied"
    with open_run_folder(started.output, as_plain(continued)):
        pass
    fresh = with_snapshots(config("owner/tiny@main"))
    with (
        pytest.raises(InputError, match=r"configuration \(model was owner/tiny and is owner/tiny@main\)"),
        open_run_folder(fresh.output, as_plain(fresh)),
    ):
        pass
    assert json.loads((tmp_path / "run" / "config.json").read_text())["hub"]["model"]["commit"] == first


def test_a_continued_run_takes_no_path_for_an_id_and_no_id_for_a_path(hub, tmp_path, monkeypatch):
    def begin(output: str, model: str) -> SFTRunConfig:
        config = with_snapshots(SFTRunConfig(model=model, output=str(tmp_path / output)))
        with open_run_folder(config.output, as_plain(config)):
            return config

    def said(output: str, model: str) -> str:
        with pytest.raises(InputError) as caught:
            begin(output, model)
        return str(caught.value)

    one, other = tmp_path / "one", tmp_path / "other"
    (one / "models" / "base").mkdir(parents=True)
    other.mkdir()
    hub.publish("models/base", {**MODEL, "model.safetensors": b"a stranger's"})
    monkeypatch.chdir(one)
    assert begin("of_path", "models/base").hub == {}
    begin("of_id", "owner/tiny")
    monkeypatch.chdir(other)
    hub.requests.clear()
    assert said("of_path", "models/base") == (
        f"model=models/base: the run in output={tmp_path / 'of_path'} began with a path of that name, which does not "
        f"exist in {other}; continue it where the path exists, or set another output to use the Hub's repository"
    )
    assert hub.requests == []
    (other / "owner" / "tiny").mkdir(parents=True)
    assert said("of_id", "owner/tiny") == (
        f"model=owner/tiny: the run in output={tmp_path / 'of_id'} began with the Hub's repository of that id, and "
        "here a path of that name exists, which takes precedence; move it, use another working directory, or set "
        "another output"
    )
    monkeypatch.chdir(one)
    begin("of_path", "models/base"), begin("of_id", "owner/tiny")


def test_a_model_and_a_data_set_of_one_name_keep_their_commits(hub, tmp_path):
    model, rows = hub.publish("o/same", MODEL), hub.publish("o/same", THREE, "datasets")
    config = SFTRunConfig(model="o/same", output=str(tmp_path / "run"), data=SupervisedDataConfig(path="o/same"))
    started = with_snapshots(config)
    assert {key: origin.commit for key, origin in started.hub.items()} == {"model": model, "data.path": rows}
    with open_run_folder(started.output, as_plain(started)):
        pass
    hub.publish("o/same", {**MODEL, "model.safetensors": b"better"})
    hub.publish("o/same", {"a.jsonl": ROWS * 3}, "datasets")
    assert with_snapshots(config) == started


def test_names_of_the_users_own_have_dots(hub, tmp_path):
    policies = {"qwen2.5": "owner/tiny", "qwen2": str(tmp_path), "a.b.c": "owner/tiny@main"}
    compared = CompareConfig(model=str(tmp_path), output=str(tmp_path), policies=policies)
    found = with_snapshots(compared)
    folder = str(get("owner/tiny")[0])
    assert found.policies == {"qwen2.5": folder, "qwen2": str(tmp_path), "a.b.c": folder}
    assert found.hub.keys() == {"policies.qwen2.5", "policies.a.b.c"}
    assert {**as_plain(found), "hub": {}} == as_plain(compared)
    held_out = HeldOutConfig(others={"gsm8k.test": "owner/rows:train.jsonl"})
    tuned = SFTRunConfig(model=str(tmp_path), output=str(tmp_path / "run"), held_out=held_out)
    found = with_snapshots(tuned)
    assert Path(found.held_out.others["gsm8k.test"]).read_bytes() == ROWS
    assert as_plain(found)["held_out"]["others"] == held_out.others
    with open_run_folder(found.output, as_plain(found)):
        pass
    assert with_snapshots(tuned) == found
    given = ["model=m", "data.path=rows.jsonl", f"output={tmp_path}", "+policies={qwen2.5: owner/tiny}"]
    assert compose(CONF, "compare", given, CompareConfig).policies == {"qwen2.5": "owner/tiny"}


def test_hub_is_not_given(hub, tmp_path):
    commit = hub.repositories["models", "owner/tiny"].branches["main"]
    origin = Snapshot(id="owner/tiny", commit="0" * 40)
    for key, model in (("model", str(tmp_path)), ("model", "owner/tiny"), ("log", "owner/tiny"), ("x.y", "owner/tiny")):
        with pytest.raises(InputError) as caught:
            with_snapshots(SFTRunConfig(model=model, output=str(tmp_path / "run"), hub={key: origin}))
        assert str(caught.value) == (
            f"hub: {key} is owner/tiny at {'0' * 40}: hub is set when a run starts; leave it out, and set the "
            f"commit in the id, as in {key}=owner/name@COMMIT"
        )
    given = [
        f"model={tmp_path}",
        "data.path=rows.jsonl",
        "output=o",
        "seed=1,2",
        f"+hub={{model: {{id: owner/tiny, commit: {commit}}}}}",
    ]
    with pytest.raises(InputError, match=r"hub is set when a run starts"):
        Plan.of(CONF, given).listed()
    assert hub.requests == []


def test_every_key_that_names_a_model_or_rows_takes_an_id(hub, tmp_path):
    config = OnlineConfig(
        model="owner/tiny",
        output=str(tmp_path),
        reward=RewardConfig(model="owner/tiny", ensemble=["owner/tiny@main", str(tmp_path)]),
    )
    config.data.path, config.critic.model = "owner/rows", "owner/tiny"
    found = with_snapshots(config)
    folders = {found.model, found.critic.model, found.reward.model, found.reward.ensemble[0]}
    assert folders == {str(get("owner/tiny")[0])}
    assert found.reward.ensemble[1] == str(tmp_path)
    assert found.hub.keys() == {"model", "critic.model", "reward.model", "reward.ensemble.0", "data.path"}
    assert {**as_plain(found), "hub": {}} == as_plain(config)
    compared = CompareConfig(model="owner/tiny", output=str(tmp_path), policies={"one": "owner/tiny"})
    compared.data.path = "owner/rows"
    found = with_snapshots(compared)
    assert (found.policies["one"], found.hub["policies.one"].id) == (found.model, "owner/tiny")


def test_a_pipeline_knows_its_inputs_by_their_commits(hub, tmp_path):
    ids = ["model=owner/tiny", "data.path=owner/rows:train.jsonl"]
    needing = StageConfig(kind="sft", overrides=["data.path=owner/rows"], needs={"model": "first"})
    stages = {"first": StageConfig(kind="sft", overrides=ids), "second": needing}
    pipeline = PipelineConfig(output=str(tmp_path / "p"), stages=stages)
    first, second = steps_of(pipeline, CONF)
    made = first.with_inputs()
    commits = {key: hub.repositories[kind].branches["main"] for key, kind in KINDS.items()}
    assert made.config.inputs == commits
    assert (second.config.model, second.config.hub.keys()) == (str(first.artifact), {"data.path"})
    with open_run_folder(first.config.output, as_plain(made.config)):
        pass
    hub.publish("owner/tiny", {**MODEL, "model.safetensors": b"better"})
    hub.requests.clear()
    again, _ = steps_of(pipeline, CONF)
    assert again.with_inputs().fingerprint == made.fingerprint, "a stage that was made is kept"
    assert not [request for request in hub.requests if "owner/tiny" in request]


def test_a_job_of_a_sweep_is_given_the_id_not_a_path(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["model=owner/tiny@main", "data.path=rows.jsonl", "output=o", "seed=1,2"]
    plan = Plan.of(CONF, given)
    plan.listed()
    configs = plan.configs
    assert {config.model for config in configs.values()} == {"owner/tiny@main"}
    assert {config.data.path for config in configs.values()} == {str(tmp_path / "rows.jsonl")}
    assert hub.requests == [], "the job asks, where it runs"
