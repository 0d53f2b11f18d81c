"""Pipelines whose stages are functions that write files: what is made, what is kept, what is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config import compose
from rlhf.pipelines import run as pipeline
from rlhf.pipelines.config import PipelineConfig, StageConfig, in_order
from rlhf.pipelines.kinds import KINDS, load
from rlhf.pipelines.plan import steps_of
from rlhf.types import InputError
from tests.unit.judges.server import completion, running

CONF = Path(__file__).parents[3] / "conf"
DATA = ["data=supervised"]
TASKS = """
from pathlib import Path
CALLS = Path(__file__).with_name("calls.txt")

def words(folder, letters="abc", fails_without=None):
    note("words")
    if fails_without and not Path(fails_without).exists():
        raise RuntimeError("a bug")
    (folder / "words.txt").write_text(letters)

def upper(folder, source):
    note("upper")
    (folder / "upper.txt").write_text(Path(source).read_text().upper())

def join(folder, one, other):
    note("join")
    (folder / "joined.txt").write_text(Path(one).read_text() + (Path(other) / "words.txt").read_text())

def note(name):
    with CALLS.open("a") as file:
        file.write(name + "\\n")
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    file = tmp_path / "tasks.py"
    file.write_text(TASKS)
    return file


@pytest.fixture
def make(tasks: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """`make(name=stage)` runs a diamond of stages, some of them others; the functions it called, in their order."""

    def run(output: str = "pipeline", dry_run: bool = False, **others: StageConfig) -> list[str]:
        calls = tasks.with_name("calls.txt")
        calls.write_text("")
        stages = {
            "joined": calling(tasks, "join", {"arguments.one": "upper/upper.txt", "arguments.other": "others"}),
            "upper": calling(tasks, "upper", {"arguments.source": "words/words.txt"}),
            "words": calling(tasks, "words"),
            "others": calling(tasks, "words"),
        }
        config = PipelineConfig(output=str(tmp_path / output), dry_run=dry_run, stages=stages | others)
        pipeline.run(config, CONF)
        return calls.read_text().split()

    return run


def calling(tasks: Path, function: str, needs: dict[str, str] | None = None, *overrides: str) -> StageConfig:
    return StageConfig(kind="function", overrides=[f"function={tasks}:{function}", *overrides], needs=needs or {})


def record(tmp_path: Path) -> dict[str, dict]:
    return json.loads((tmp_path / "pipeline" / "pipeline.json").read_text())["stages"]


def states(tmp_path: Path) -> dict[str, str]:
    return {name: each["state"] for name, each in record(tmp_path).items()}


def test_stages_come_after_those_they_need() -> None:
    def needing(*names: str) -> StageConfig:
        return StageConfig(kind="sft", needs={f"key{i}": name for i, name in enumerate(names)})

    order = in_order(
        {
            "report": needing("ppo", "dpo"),
            "ppo": needing("sft", "judge"),
            "judge": needing("sft"),
            "dpo": needing("sft/x"),
            "sft": needing(),
        }
    )
    places = {name: i for i, name in enumerate(order)}
    assert len(order) == 5
    assert places["sft"] < places["judge"] < places["ppo"] < places["report"]
    assert places["sft"] < places["dpo"] < places["report"]


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ({"a": {"x": "b"}, "b": {"x": "a"}}, "needs"),
        ({"a": {"x": "a"}}, "a needs a"),
        ({"a": {"model": "sfd"}}, "stages.a.needs.model=sfd: there is no such stage; known are a"),
        ({"../a": {}}, "stages.../a: the name is also a folder's"),
        ({"replaced": {}}, "stages.replaced: the name is also a folder's"),
    ],
)
def test_an_order_that_does_not_exist_is_told(stages: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        in_order({name: StageConfig(kind="sft", needs=needs) for name, needs in stages.items()})


def test_what_is_there_is_kept(make: Callable[..., list[str]], tmp_path: Path) -> None:
    assert sorted(make()) == ["join", "upper", "words", "words"]
    assert (tmp_path / "pipeline" / "joined" / "files" / "joined.txt").read_text() == "ABCabc"
    assert set(states(tmp_path).values()) == {"made"}
    made = record(tmp_path)
    assert make() == []
    assert set(states(tmp_path).values()) == {"kept"}
    again = record(tmp_path)
    for name, stage in made.items():
        assert {key: again[name][key] for key in ("fingerprint", "seconds")} == {
            key: stage[key] for key in ("fingerprint", "seconds")
        }
    manifest = json.loads((tmp_path / "pipeline" / "joined" / "files" / "manifest.json").read_text())
    assert set(manifest["config"]["inputs"]) == {"function", "arguments.one", "arguments.other"}
    table = (tmp_path / "pipeline" / "pipeline.md").read_text()
    assert table.count("| kept |") == 4


def test_a_changed_configuration_is_made_anew_with_all_below_it(
    make: Callable[..., list[str]], tasks: Path, tmp_path: Path
) -> None:
    make()
    changed = calling(tasks, "words", {}, "+arguments.letters=xyz")
    assert make(words=changed) == ["words", "upper", "join"]
    assert states(tmp_path) == {"words": "made", "upper": "made", "joined": "made", "others": "kept"}
    assert (tmp_path / "pipeline" / "joined" / "files" / "joined.txt").read_text() == "XYZabc"
    replaced = tmp_path / "pipeline" / "replaced"
    assert (replaced / "words-0" / "files" / "words.txt").read_text() == "abc"
    assert make(words=changed) == []
    assert make() == ["words", "upper", "join"]
    assert (replaced / "words-1" / "files" / "words.txt").read_text() == "xyz"


def test_a_changed_input_is_seen_by_its_content_not_by_its_age(
    make: Callable[..., list[str]], tasks: Path, tmp_path: Path
) -> None:
    make()
    tasks.touch()
    assert make() == []
    tasks.write_text(TASKS + "\n# another version\n")
    assert sorted(make()) == ["join", "upper", "words", "words"]


def test_a_moved_pipeline_is_kept(make: Callable[..., list[str]], tmp_path: Path) -> None:
    make()
    (tmp_path / "pipeline").rename(tmp_path / "elsewhere")
    assert make("elsewhere") == []


def test_a_failed_pipeline_goes_on_where_it_failed(make: Callable[..., list[str]], tasks: Path, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    failing = calling(tasks, "words", {}, f"+arguments.fails_without={mended}")
    with pytest.raises(RuntimeError, match="a bug"):
        make(words=failing)
    assert states(tmp_path)["words"] == "stopped"
    assert not (tmp_path / "pipeline" / "words" / "files").exists()
    mended.touch()
    assert set(make(words=failing)) == {"words", "upper", "join"}
    assert not (tmp_path / "pipeline" / "replaced").exists()


def test_a_damaged_artifact_is_told(make: Callable[..., list[str]], tmp_path: Path) -> None:
    make()
    (tmp_path / "pipeline" / "upper" / "files" / "upper.txt").write_text("damaged")
    with pytest.raises(InputError, match=r"stage upper: .*upper.txt: it is not what was written"):
        make()


def test_a_dry_run_makes_nothing(
    make: Callable[..., list[str]], tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(dry_run=True) == []
    assert not (tmp_path / "pipeline").exists()
    make()
    capsys.readouterr()
    assert make(dry_run=True, words=calling(tasks, "words", {}, "+arguments.letters=xyz")) == []
    shown = capsys.readouterr().out
    assert "to be made after words" in shown
    assert "kept" in shown
    with pytest.raises(InputError, match=r"stage words: function=.*letter"):
        make(dry_run=True, words=calling(tasks, "words", {}, "+arguments.letter=xyz"))


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (StageConfig(kind="sfd"), "stages.other.kind=sfd: there is no such kind; known are function, sft"),
        (StageConfig(kind="sft", overrides=["modle=x"]), "stage other: modle: there is no such key; did you mean mod"),
        (StageConfig(kind="sft", needs={"modle": "words"}), "stage other: modle: there is no such key"),
        (
            StageConfig(kind="sft", overrides=["data=null"]),
            "stage other: data=null: give the name of a choice; known are",
        ),
        (
            StageConfig(kind="sft", overrides=[*DATA, "data.path=nowhere.jsonl"], needs={"model": "words"}),
            "stage other: data.path=nowhere.jsonl: it does not exist",
        ),
        (StageConfig(kind="sft", overrides=DATA, needs={"model": "words"}), "stage other: data.path"),
        (StageConfig(kind="sft", overrides=[*DATA, "data.path=x"]), "stage other: model"),
    ],
)
def test_every_stage_is_checked_before_the_first(
    stage: StageConfig, sentence: str, make: Callable[..., list[str]], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        make(other=stage)
    assert not (tmp_path / "pipeline").exists()


def test_stages_are_declared_in_yaml_and_changed_on_the_command_line() -> None:
    changed = ["pipeline=tiny", "stages.sft.overrides=['experiment=tiny_sft', 'train.num_steps=3']"]
    config = compose(CONF, "pipeline", changed, PipelineConfig)
    assert config.stages["sft"].overrides == ["experiment=tiny_sft", "train.num_steps=3"]
    assert config.stages["reward_model"].needs["model"] == "sft"
    steps = {step.name: step for step in steps_of(config, CONF)}
    assert list(steps)[-1] == "compare"
    assert steps["sft"].config.train.num_steps == 3
    assert steps["ppo"].config.reward.model == f"{config.output}/reward_model/model"
    with pytest.raises(InputError, match=r"stages.sft.sort: there is no such key"):
        compose(CONF, "pipeline", [*changed, "+stages.sft.sort=1"], PipelineConfig)
    with pytest.raises(InputError, match="pipeline=tiny"):
        compose(CONF, "pipeline", ["output=o"], PipelineConfig)


def test_the_kinds_are_what_they_say() -> None:
    for kind in KINDS.values():
        assert callable(load(kind.run))
        assert kind.plan is None or callable(load(kind.plan))


@pytest.mark.parametrize(("share", "code", "state"), [(1.0, 0, "made"), (0.0, 10, "blocked"), (0.5, 11, "blocked")])
def test_a_gate_that_does_not_pass_blocks_what_comes_after(
    tasks: Path, tmp_path: Path, share: float, code: int, state: str
) -> None:
    rows = [{"prompt": f"{i}", "answer": f"{i}"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = f"+suite={{own: {{path: {tmp_path / 'rows.jsonl'}, metrics: {{exact_match: {{}}}}}}}}"
    gate = "gate.conditions=[{figure: own/exact_match, at_least: 0.5}]"
    with running() as server:
        server.reply = lambda number, body: completion(right_for(share, body["messages"][-1]["content"]))
        overrides = [suite, gate, f"endpoint.url={server.url}", "endpoint.model=m", f"answers={tmp_path / 'answers'}"]
        stages = {
            "checked": StageConfig(kind="evaluate", overrides=overrides),
            "next": StageConfig(kind="function", overrides=[f"function={tasks}:words"], after=["checked"]),
            "further": calling(tasks, "upper", {"arguments.source": "next/words.txt"}),
            "aside": calling(tasks, "words"),
        }
        config = PipelineConfig(output=str(tmp_path / "pipeline"), stages=stages)
        assert pipeline.run(config, CONF) == code
        assert pipeline.run(config, CONF) == code, "a kept evaluation has its verdict"
        kept = "kept" if state == "made" else state
        assert [states(tmp_path)[name] for name in stages] == ["kept", kept, kept, "kept"]
        asked = len(server.requests)
        with (tmp_path / "rows.jsonl").open("a") as lines:
            lines.write(json.dumps({"prompt": "20", "answer": "20"}) + "\n")
        pipeline.run(config, CONF)
        assert len(server.requests) > asked == 20, "other data is asked about"


def right_for(share: float, question: str) -> str:
    return question if int(question) < 20 * share else "no"
