"""Which prompts are held out, and what is refused before accelerators are held."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from rlhf.config import OnlineConfig, compose
from rlhf.stages.online.job import Job, prepare
from rlhf.stages.online.results import digests_of
from rlhf.train.artifact import committing
from rlhf.train.rows import ROWS, check_rows
from rlhf.train.run_folder import RunFolder
from rlhf.types import InputError

CONF = Path(__file__).parents[4] / "conf"
SUMS = [(a, b) for a in range(5) for b in range(5)]


def write(path: Path, sums: Iterable[tuple[int, int]]) -> Path:
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b), "of": "even" if a % 2 == 0 else "odd"} for a, b in sums]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def job(models: dict[str, Path], tmp_path: Path) -> Callable[..., Job]:
    rows = write(tmp_path / "rows.jsonl", SUMS)

    def prepared(*overrides: str) -> Job:
        base = ["output=unused", "sampling.max_tokens=4", "stream.prompts_per_step=2", "sampler.context_tokens=64",
                f"model={models['tied']}", f"data.path={rows}"]  # fmt: skip
        return prepare(compose(CONF, "online", [*base, *overrides], OnlineConfig))

    return prepared


def texts(prompts: Iterable) -> list[str]:
    return [prompt.messages[-1]["content"] for prompt in prompts]


def test_a_fraction_is_never_trained_on_and_measured(job):
    split = job("validation.fraction=0.3", "validation.num_prompts=5")
    assert len(split.held_out.prompts) == 9
    assert split.measured_prompts == split.held_out.prompts[:5]
    assert not set(texts(split.prompts)) & set(texts(split.held_out.prompts))
    assert sorted(texts([*split.prompts, *split.held_out.prompts])) == sorted(texts(job().prompts))
    again = job("validation.fraction=0.3", "seed=7", "data.limit=10")
    assert set(texts(again.held_out.prompts)) < set(texts(split.held_out.prompts))


def test_without_held_out_prompts_those_of_the_training_are_measured(job):
    plain = job("validation.num_prompts=3")
    assert plain.held_out.prompts == []
    assert plain.measured_prompts == plain.prompts[:3]


def test_a_file_is_measured_without_the_prompts_that_are_trained_on(job, tmp_path):
    file = write(tmp_path / "held_out.jsonl", [(a, 7) for a in range(19)] + [(1, 1)])
    loaded = job(f"validation.path={file}", "data.limit=24")
    assert texts(loaded.held_out.prompts) == [f"{a}+7=" for a in range(19)]
    assert loaded.held_out.origin.endswith("; 1 of its 20 prompts are trained on, and left out here")
    assert len(loaded.prompts) == 24
    with pytest.raises(InputError, match=r"1 of its 20 prompts are in data.path=.*, more than validation.max_overlap="):
        job(f"validation.path={file}", "validation.max_overlap=0.04")
    with pytest.raises(InputError, match=r"25 of its 25 prompts are in data.path="):
        job(f"validation.path={write(tmp_path / 'same.jsonl', SUMS)}")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["validation.fraction=0.001"], "validation.fraction=0.001: of 25 prompts in "),
        (["validation.fraction=0.001"], "none is held out; raise it"),
        (["validation.fraction=0.4", "stream.prompts_per_step=20"],
         "10 are left for training, fewer than stream.prompts_per_step=20; lower the fraction"),
        (["validation.path=x.jsonl", "validation.fraction=0.1"],
         "validation.path=x.jsonl, validation.fraction=0.1: prompts come from a file or from the data; set one"),
        (["validation.every=5"], "validation.every=5: no prompts are held out; set validation.path"),
        (["validation.patience=2"], "validation.patience=2: no metric says what is better; set checkpoint.keep_best"),
        (["checkpoint.keep_best=validation/reward", "validation.fraction=0.2"],
         "checkpoint.keep_best=validation/reward: it is measured only before and after training; set validation.every"),
        (["checkpoint.keep_best=train/kl", "validation.fraction=0.2", "validation.every=1"],
         "checkpoint.keep_best=train/kl: it is never measured; known are validation/success, validation/reward, "),
        (["checkpoint.keep_best=validation/pass@4", "validation.fraction=0.2", "validation.every=1"],
         "it is never measured"),
        (["checkpoint.keep_best=validation/greedy/reward", "validation.fraction=0.2", "validation.every=1"],
         "it is never measured"),
        (["validation.source_key=data_source"],
         "validation.source_key=data_source: 25 of 25 rows have no such field, the first is "),
    ],
)  # fmt: skip
def test_keys_without_effect_and_splits_with_too_few_prompts_are_refused(job, overrides, sentence):
    with pytest.raises(InputError) as caught:
        job(*overrides)
    assert sentence in str(caught.value)


def test_figures_that_are_measured_may_choose_the_best_model(job):
    measured = ["validation.fraction=0.3", "validation.every=1", "validation.pass_at=[2]", "validation.greedy=true",
                "validation.source_key=of"]  # fmt: skip
    for name in ("reward", "pass@2", "greedy/success", "odd/reward"):
        assert job(*measured, f"checkpoint.keep_best=validation/{name}").config.checkpoint.keep_best


def test_a_small_file_may_have_fewer_prompts_than_a_step(job):
    assert job("validation.fraction=0.3", "stream.prompts_per_step=64").held_out.prompts


def test_a_continued_run_has_the_same_held_out_prompts(job, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with committing(folder.checkpoint(3), {ROWS: digests_of(job("validation.fraction=0.3"))}) as staging:
        (staging / "weights").write_text("w")
    keys = {"prompts": "data.path", "held_out": "validation"}
    check_rows(folder, digests_of(job("validation.fraction=0.3", "seed=9")), keys)
    with pytest.raises(InputError, match=r"validation gives other rows than step-000003 was made with \(9 rows then"):
        check_rows(folder, digests_of(job("validation.fraction=0.2")), keys)
    with pytest.raises(InputError, match=r"validation gives other rows .* \(9 rows then, none now\)"):
        check_rows(folder, digests_of(job()), keys)
