"""What a run writes down, and what of it survives a resumed run."""

import asyncio
import io
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rlhf.environments.base import append_completion, append_observation, start, unsampled
from rlhf.train.metrics import mean_parts
from rlhf.train.report import RoleUse, StepReport
from rlhf.train.rollouts import info_of
from rlhf.train.stats import Stats
from rlhf.train.tracking import (
    METRICS,
    ROLLOUTS,
    LogConfig,
    MetricsLog,
    ProgressBar,
    RolloutLog,
    StopAtReward,
    Tail,
    TensorBoard,
    plot,
    readable,
    unprefixed,
)
from rlhf.types import Episode, Failure, InputError, Rollout, Score, Turn
from tests.unit.train.fakes import make_group, make_info, make_prompt, make_report, random_rollout

PNG = b"\x89PNG\r\n\x1a\n"
BROKEN = Failure(kind="reward_error", message="boom")


def make_rollout(text: str, versions: tuple[int, ...] = (4, 5)) -> Rollout:
    num_chosen = len(versions)
    turn = Turn(speaker="policy", start=2, stop=2 + num_chosen, messages=({"role": "assistant", "content": text},))
    return Rollout(
        prompt_id="p0",
        token_ids=np.zeros(2 + num_chosen, dtype=np.int32),
        loss_mask=np.arange(2 + num_chosen) >= 2,
        logprobs=np.zeros(2 + num_chosen, dtype=np.float32),
        versions=np.array([-1, -1, *versions], dtype=np.int32),
        stop="stop",
        text=text,
        turns=(turn,) if versions else (),
    )


def read_lines(path) -> list[dict]:
    """As JSON Lines are read elsewhere: lines end at a line feed alone, and NaN is no JSON."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line, parse_constant=lambda constant: pytest.fail(constant)) for line in file]


def test_metrics_are_one_line_per_step_and_null_where_not_finite(tmp_path):
    log = MetricsLog(tmp_path, next_step=0)
    stats = Stats()
    stats.add("loss", math.nan, 1.0)
    stats.add("norm", math.inf, 1.0)
    stats.add("lr", 0.5, 1.0)
    for step in range(2):
        assert asyncio.run(log.on_step(make_report(step, [1.0, 0.0, 0.5], stats))) is False
        rows = read_lines(tmp_path / METRICS)  # flushed at once
        assert len(rows) == step + 1
        assert (rows[step]["step"], rows[step]["reward"], rows[step]["train/lr"]) == (step, 0.5, 0.5)
        assert rows[step]["train/loss"] is rows[step]["train/norm"] is None
    assert [row["step"] for row in log.history] == [0, 1]


def test_a_resumed_log_drops_the_steps_it_repeats(tmp_path):
    log = MetricsLog(tmp_path, next_step=0)
    for step in range(5):
        log.write({"step": step, "reward": math.nan if step == 1 else 0.1 * step})
    resumed = MetricsLog(tmp_path, next_step=3)
    resumed.write({"step": 3, "reward": 9.0})
    expected = [0.0, None, pytest.approx(0.2), 9.0]
    assert [row["reward"] for row in read_lines(tmp_path / METRICS)] == expected
    assert [row["reward"] for row in resumed.history] == expected
    assert [row["step"] for row in read_lines(tmp_path / METRICS)] == [0, 1, 2, 3]


def test_a_line_torn_by_a_kill_is_dropped(tmp_path):
    log = MetricsLog(tmp_path, next_step=0)
    for step in range(3):
        log.write({"step": step, "reward": 1.0})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 3, "rew')
    assert [row["step"] for row in MetricsLog(tmp_path, next_step=3).history] == [0, 1, 2]


def test_tensorboard_events_are_written(tmp_path):
    log = MetricsLog(tmp_path, next_step=0)
    log.sinks.append(TensorBoard(tmp_path, next_step=0))
    log.write({"step": 0, "reward": 0.25})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(0, 0.25)]


def test_rollouts_are_readable():
    score = Score(value=1.5, parts={"exact": 1.0, "format": 0.5})
    (line,) = readable(Episode(rows=[make_rollout("4")], score=score), str)
    assert line == {
        "row": 0,
        "prompt_id": "p0",
        "prompt": "[0, 0]",
        "text": "4",
        "turns": [{"role": "assistant", "content": "4"}],
        "reward": 1.5,
        "parts": {"exact": 1.0, "format": 0.5},
        "stop": "stop",
        "num_tokens": 2,
        "versions": [4, 5],
    }
    (failed,) = readable(Episode(rows=[make_rollout("", versions=())], score=BROKEN), str)
    assert failed["failure"] == "reward_error: boom"
    assert failed["versions"] is None
    assert "reward" not in failed


def report_with_rollouts(step: int, rollouts: list[list[Rollout]]) -> StepReport:
    groups = []
    for i, group in enumerate(rollouts):
        infos = [make_info(Score(value=1.0), number=i, sample=j, version=step) for j in range(len(group))]
        groups.append(make_group(i, infos, group))
    return StepReport(step=step, groups=groups, rejected=[], stats=Stats(), seconds={"step": 1.0}, use={})


def test_some_groups_are_written_as_text(tmp_path):
    log = RolloutLog(tmp_path, 2, list, str, next_step=0)
    groups = [[make_rollout(f"{i}{j}") for j in range(2)] for i in range(3)]
    assert asyncio.run(log.on_step(report_with_rollouts(0, groups))) is False
    rows = read_lines(tmp_path / ROLLOUTS)
    assert [row["text"] for row in rows] == ["00", "01", "10", "11"]
    assert [row["episode"] for row in rows] == ["p0/0/0", "p0/0/1", "p1/0/0", "p1/0/1"]
    assert rows[0]["step"] == 0


def test_each_row_of_an_episode_has_its_index_and_its_own_prompt(tmp_path):
    prompt = make_prompt(0)
    first = append_completion(start(prompt), unsampled([7, 8], stop="stop", text="78"))
    first = append_completion(append_observation(first, [9]), unsampled([10], stop="stop", text="10"))
    second = append_completion(start(prompt, (5, 6, 7)), unsampled([11], stop="stop", text="11"))
    without_turns = replace(second, turns=())
    rows = [first, second, without_turns]
    infos = [info_of(Episode(rows=rows, score=Score(value=1.0)), "p0/0/0", prompt.source, True, 0)]
    report = StepReport(step=2, groups=[make_group(0, infos, rows)], rejected=[], stats=Stats(), seconds={}, use={})
    asyncio.run(RolloutLog(tmp_path, 1, list, str, next_step=0).on_step(report))
    lines = read_lines(tmp_path / ROLLOUTS)
    assert [(line["step"], line["episode"], line["row"]) for line in lines] == [(2, "p0/0/0", i) for i in range(3)]
    assert [line["prompt"] for line in lines] == ["[3, 4]", "[5, 6, 7]", "[5, 6, 7]"]
    assert [line["text"] for line in lines] == ["10", "11", "11"]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\x0b", "\x0c", "\x1c", "\u2028", "\u2029", "\x85"])
def test_a_resumed_rollout_log_reads_any_text(tmp_path, separator):
    """A policy writes what it likes: line separators of Unicode too, which `str.splitlines` splits at."""
    text = f"one{separator}two"
    log = RolloutLog(tmp_path, 1, list, str, next_step=0)
    for step in range(2):
        asyncio.run(log.on_step(report_with_rollouts(step, [[make_rollout(text)]])))
    RolloutLog(tmp_path, 1, list, str, next_step=1)
    assert [(row["step"], row["text"]) for row in read_lines(tmp_path / ROLLOUTS)] == [(0, text)]


def test_messages_of_an_environment_that_json_cannot_hold_are_written_as_text(tmp_path):
    rollout = make_rollout("4")
    said = {"role": "tool", "content": np.int64(7), "raw": b"x", "text": "\udce9"}
    rollout.turns += (Turn(speaker="environment", start=2, stop=4, messages=[said]),)
    log = RolloutLog(tmp_path, 1, list, str, next_step=0)
    asyncio.run(log.on_step(report_with_rollouts(0, [[rollout]])))
    (row,) = read_lines(tmp_path / ROLLOUTS)
    assert row["turns"][-1] == {"role": "tool", "content": "7", "raw": "b'x'", "text": "?"}


def test_training_stops_once_the_window_s_mean_reaches_the_target():
    history: list[dict[str, float]] = []
    stop = StopAtReward(target=0.75, window=3, history=history)
    answers = []
    for step, reward in enumerate([1, 1, 0, 1, 1, 1]):
        history.append({"step": step, "reward": reward})
        history.insert(0, {"step": step, "validation/reward": 0.0})
        answers.append(asyncio.run(stop.on_step(make_report(step, [reward]))))
    # Windows: none yet, none yet, 2/3, 2/3, 2/3, 1.
    assert answers == [False, False, False, False, False, True]


def test_a_plot_is_a_png_of_what_was_recorded(tmp_path):
    history = [{"step": i, "reward": 0.1 * i, "kl": None if i == 1 else math.nan if i == 2 else 0.5} for i in range(4)]
    plot(history, {"reward": "reward", "KL": "kl", "length": "absent"}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_validations_are_plotted_beside_the_training_with_their_intervals(tmp_path):
    history = [{"step": i, "reward": 0.1 * i} for i in range(4)]
    history += [{"step": i, "validation/reward": 0.1, "validation/reward_low": low, "validation/reward_high": 0.3}
                for i, low in ((-1, 0.0), (1, None), (3, 0.05))]  # fmt: skip
    plot(history, {"reward": "reward", "success": "success"}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
    rows = [unprefixed(row, "validation/") for row in history[-2:]]
    assert rows[1] == {"step": 3, "reward": 0.1, "reward_low": 0.05, "reward_high": 0.3}


def test_a_plot_of_nothing_does_not_end_a_run(tmp_path):
    plot([], {"reward": "reward"}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_without_a_terminal_progress_is_a_line_every_tenth():
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with ProgressBar(20, console) as bar:
        for step in range(20):
            bar.show(step, {"reward": 0.5, "train/loss": 0.001234, "seconds/step": 1.5, "unknown": 3.0})
    lines = console.file.getvalue().split("\n")[:-1]
    assert lines == [f"step {step}/20  reward 0.5  loss 0.00123  1.50 s" for step in range(2, 21, 2)]


def test_step_metrics_in_closed_form():
    good = Score(value=2.0, parts={"exact": 1.0, "length": 1.0})
    bad = Score(value=0.0, parts={"exact": 0.0, "length": 0.0})
    groups = [
        make_group(
            0, [replace(make_info(good, num_loss_tokens=4), versions=(3, 4)), make_info(BROKEN, num_loss_tokens=0)]
        ),
        make_group(1, [make_info(bad, version=5, num_loss_tokens=2, stop="length"), make_info(good, version=5)]),
    ]
    rejected = [make_group(2, [make_info(BROKEN), make_info(Failure(kind="environment", message="x"))])]
    stats = Stats()
    stats.add("loss", 3.0, 2.0)
    use = {"policy": RoleUse(busy=0.25, memory_bytes=7)}
    report = StepReport(step=5, groups=groups, rejected=rejected, stats=stats, seconds={"step": 0.5}, use=use)
    assert report.figures is report.figures
    assert report.figures == pytest.approx(
        {
            "step": 5,
            "reward": 4 / 3,
            "reward_std": math.sqrt((2 * (2 / 3) ** 2 + (4 / 3) ** 2) / 3),
            "reward/exact": 2 / 3,
            "reward/length": 2 / 3,
            "completion_tokens": (4 + 0 + 2 + 3) / 4,
            "tokens": 6 + 2 + 4 + 5,
            "tokens_per_second": 34.0,
            "truncated": 0.25,
            "repetition": 0.0,
            "train/loss": 1.5,
            "failures": 3.0,
            "failures/reward_error": 2.0,
            "failures/environment": 1.0,
            "staleness_max": 2.0,
            "seconds/step": 0.5,
            "busy/policy": 0.25,
            "memory_bytes/policy": 7.0,
        }
    )


def test_a_part_is_averaged_over_the_scores_that_have_it():
    """Of episodes that rewards scored, and of those that the environment did."""
    scores = [Score(value=1.0), Score(value=1.0, parts={"exact": 1.0}), Score(value=0.0, parts={"solved": 0.5})]
    assert mean_parts([*scores, Score(value=0.0, parts={"exact": 0.0})]) == {"exact": 0.5, "solved": 0.5}


def test_a_step_whose_rollouts_are_all_empty_has_metrics():
    """An engine may answer with no token at all; the reward of nothing is still a reward."""
    infos = [make_info(Score(value=0.0), sample=i, num_loss_tokens=0) for i in range(2)]
    groups = [make_group(0, infos)]
    report = StepReport(step=0, groups=groups, rejected=[], stats=Stats(), seconds={"step": 1.0}, use={})
    assert report.figures["completion_tokens"] == 0.0


def test_random_rollouts_are_readable():
    rollout = random_rollout(np.random.default_rng(0), "p0", version=2)
    (line,) = readable(Episode(rows=[rollout], score=Score(value=0.0)), str)
    assert line["versions"] == [2, 2]
    assert line["num_tokens"] == int(rollout.loss_mask.sum())


def test_a_file_that_is_written_anew_is_followed_without_its_old_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text('{"step": 0, "s": 1.5}\n{"step": 1, "s": 1.25}\n{"st', encoding="utf-8")
    assert [row["step"] for row in tail.read()] == [0, 1]
    draft = tmp_path / "draft"
    draft.write_text('{"step": 0, "s": 1.5}\n', encoding="utf-8")
    draft.replace(path)
    assert tail.read() == []
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "s": 1.75}\n')
    assert tail.read() == [{"step": 1, "s": 1.75}]


def test_a_tracker_that_is_not_installed_is_told_with_the_configuration(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"^log.mlflow=runs: its package is not installed; pip install mlflow-skinny$"):
        LogConfig(mlflow="runs")
