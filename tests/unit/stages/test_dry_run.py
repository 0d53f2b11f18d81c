"""A dry run says of `output` what a start would say, and makes nothing."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import CompareConfig, OnlineConfig, SFTRunConfig, as_plain, compose
from rlhf.pipelines.config import PipelineConfig, StageConfig
from rlhf.stages.offline import sft
from rlhf.stages.online import compare
from rlhf.stages.online import run as online
from rlhf.stages.online.dry_run import in_time
from rlhf.stages.template_date import with_template_date
from rlhf.train.artifact import committing
from rlhf.train.run_folder import open_run_folder
from rlhf.types import InputError

CONF = Path(__file__).parents[3] / "conf"
ONLINE = ["sampling.max_tokens=4", "stream.prompts_per_step=2", "sampler.context_tokens=64", "reward.functions=[exact]"]
COMMANDS: dict[str, tuple[Callable[[Any], Any], type[Any], list[str]]] = {
    "online": (online.run, OnlineConfig, ["algorithm=grpo", *ONLINE]),
    "sft": (sft.run, SFTRunConfig, ["data.response_key=answer"]),
    "compare": (compare.run, CompareConfig, ONLINE),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_says_what_a_start_would_say(models, tmp_path, name, capsys):
    run, schema, overrides = COMMANDS[name]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(4)))
    policies = [f"+policies.one={models['tied']}"] if name == "compare" else []
    base = [f"model={models['tied']}", f"data.path={rows}", "dry_run=true", *overrides, *policies]

    def config(output: Path, *others: str) -> Any:
        return with_template_date(compose(CONF, name, [*base, f"output={output}", *others], schema))

    assert run(config(tmp_path / "new")) is None
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match=f"^output={rows}: it is a file; set output to a folder"):
        run(config(rows))
    with open_run_folder(str(tmp_path / "begun"), as_plain(config(tmp_path / "begun"))) as folder:
        pass
    assert run(config(tmp_path / "begun")) is None
    with pytest.raises(InputError, match=r"it holds a run of another configuration \(seed was 0 and is 1\)"):
        run(config(tmp_path / "begun", "seed=1"))
    if name != "compare":
        made = {"step": 100, "config": as_plain(config(tmp_path / "begun")), "rows": {}}
        with committing(folder.model, made):
            pass
        capsys.readouterr()
        run(config(tmp_path / "begun", "train.num_steps=1"))
        assert "exists already: this run is finished." in " ".join(capsys.readouterr().out.split())
        with pytest.raises(InputError, match=r"its run ended after 100 steps and kept no checkpoint"):
            run(config(tmp_path / "begun", "train.num_steps=200"))


ENVIRONMENT = """
from rlhf.environments.base import act, observe, start
from rlhf.types import Episode


async def asks_twice(prompt, sampler, sampling, *, question="?"):
    row = await act(start(prompt), sampler, sampling)
    row = observe(row, sampler, [{"role": "user", "content": question}])
    return Episode(rows=[await act(row, sampler, sampling)])


async def breaks(prompt, sampler, sampling):
    return Episode(rows=[start(prompt)], score=prompt.meta["score"])
"""


def test_it_plays_the_environment_with_the_rows_own_answers(models, tmp_path, monkeypatch, capsys):
    rows, file = tmp_path / "rows.jsonl", tmp_path / "my_env.py"
    rows.write_text("".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(4)))
    file.write_text(ENVIRONMENT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def run(environment: str, *others: str) -> str:
        base = [f"model={models['tied']}", f"data.path={rows}", f"output={tmp_path / 'new'}", "dry_run=true"]
        overrides = [*base, "algorithm=grpo", *ONLINE, f"environment={environment}", *others]
        online.run(with_template_date(compose(CONF, "online", overrides, OnlineConfig)))
        return capsys.readouterr().out

    shown = run("my_env.py:asks_twice", "+environment_options.question='#'")
    assert "9 tokens, 4 learnt: 0·+·1·=·1·<eos>·#·1·<eos>" in shown
    with pytest.raises(InputError, match=r"^no reward for the own answers of the first 4 rows, the last: environment: "
                       r"KeyError: 'score' \(.*my_env.py:\d+\)"):  # fmt: skip
        run("my_env.py:breaks")


async def test_an_environment_that_does_not_end_is_interrupted():
    async def endless(prompt: Any, sampler: Any, sampling: Any) -> Any:
        while True:
            await asyncio.sleep(0)

    async def slow_tool(prompt: Any, sampler: Any, sampling: Any) -> Any:
        raise TimeoutError("the tool")

    with pytest.raises(TimeoutError, match=r"no end within 0.05 s, with the row's own answer in every turn"):
        await in_time(endless, 0.05)(None, None, None)
    with pytest.raises(TimeoutError, match="the tool"):
        await in_time(slow_tool, 5.0)(None, None, None)


def test_a_pipeline_is_refused_a_folder_that_it_could_not_have(tmp_path):
    from rlhf.pipelines import run as pipeline

    function = tmp_path / "make.py"
    function.write_text("def words(folder, letters):\n    pass\n")

    words = StageConfig(kind="function", overrides=[f"function={function}:words", "+arguments.letters=abc"])

    def config(output: Path) -> PipelineConfig:
        return PipelineConfig(output=str(output), dry_run=True, stages={"words": words})

    pipeline.run(config(tmp_path / "new"), CONF)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="it is a file; set output to a folder"):
        pipeline.run(config(function), CONF)
    with open_run_folder(str(tmp_path / "single"), {}):
        pass
    with pytest.raises(InputError, match="it holds a single run; name another folder for the pipeline"):
        pipeline.run(config(tmp_path / "single"), CONF)


def test_a_stage_that_would_be_set_aside_is_not_in_the_way(tmp_path):
    from rlhf.pipelines import run as pipeline

    function = tmp_path / "make.py"
    function.write_text("def words(folder, letters):\n    (folder / 'words').write_text(letters)\n")

    def make(letters: str, *, dry_run: bool) -> None:
        overrides = [f"function={function}:words", f"+arguments.letters={letters}"]
        stages = {"words": StageConfig(kind="function", overrides=overrides)}
        pipeline.run(PipelineConfig(output=str(tmp_path / "made"), dry_run=dry_run, stages=stages), CONF)

    make("abc", dry_run=False)
    make("xyz", dry_run=True)
    assert (tmp_path / "made" / "words" / "files" / "words").read_text() == "abc"
