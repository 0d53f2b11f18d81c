"""What is said of policies side by side, from rollouts whose rewards are known."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf.config import CompareConfig, as_plain, compose
from rlhf.stages.online.compare import divergence, require_scores
from rlhf.stages.online.compare_report import (
    PolicyFigures,
    compare_pairs,
    measure_policy,
    runs_behind,
    write_comparison,
)
from rlhf.train.artifact import committing
from rlhf.types import (
    Batch,
    EpisodeInfo,
    Failure,
    Group,
    InputError,
    Minibatch,
    Pack,
    Prompt,
    Reference,
    Row,
    RunError,
    Score,
)

CONF = Path(__file__).parents[4] / "conf"


def group(number: int, *rewards: float | None) -> Group:
    """Rollouts of two tokens each; None fails."""
    prompt = Prompt(id=str(number), messages=[{"role": "user", "content": f"{number}="}], token_ids=(1,), source="",
                    meta={})  # fmt: skip
    infos = [
        EpisodeInfo(
            id=f"{number}-{i}", prompt_id=str(number), source="",
            rows=(Row(group=0, index=i, num_tokens=3, num_loss_tokens=2),),
            score=Failure(kind="reward_error", message="") if reward is None else Score(value=reward,
                                                                                        parts={"exact": reward / 2}),
            stop="stop", versions=(0, 0), trained=True,
        )
        for i, reward in enumerate(rewards)
    ]  # fmt: skip
    return Group(prompt=prompt, rollouts=Reference(None), infos=infos)


def composed(**policies: Path) -> CompareConfig:
    named = [f"+policies.{name}={folder}" for name, folder in policies.items()]
    return compose(CONF, "compare", ["model=base", "output=o", "data.path=p", *named], CompareConfig)


def measured(*groups: Group) -> PolicyFigures:
    return measure_policy(composed(one=Path("one")), "one", groups, np.array([0.5, 1.5, 1.0]), np.array([0, 0, 1]))


def test_a_policy_is_measured_by_prompt_and_failures_are_left_out() -> None:
    figures = measured(group(0, 1.0, 0.0), group(1, 1.0, None), group(2, None, None))
    assert figures.rewards == [0.5, 1.0, None]
    assert (figures.reward.mean, figures.success.mean, figures.failures) == (0.75, pytest.approx(1 / 3), 3)
    assert figures.parts == {"exact": pytest.approx(1 / 3)}
    assert figures.completion_tokens == 2.0
    assert figures.kl_per_sequence.mean == pytest.approx(1.0)
    assert figures.kl_per_token == pytest.approx(0.5)
    assert (figures.training_seconds, figures.trained_in) == (0.0, [])


def test_a_policy_whose_every_episode_failed_ends_the_comparison() -> None:
    require_scores("one", [group(0, None, None), group(1, None, 1.0)])
    sentence = "all 3 episodes of one failed; the last one: reward_error: ; correct its cause, and compare again"
    with pytest.raises(RunError, match=f"^{sentence}$"):
        require_scores("one", [group(0, None, None), group(1, None)])


def test_completions_of_one_prompt_do_not_narrow_the_intervals() -> None:
    rewards = np.random.default_rng(0).normal(size=30).tolist()
    config = composed(one=Path("one"))

    def of(samples: int) -> PolicyFigures:
        groups = [group(i, *[reward] * samples) for i, reward in enumerate(rewards)]
        return measure_policy(config, "one", groups, np.repeat(rewards, samples), np.repeat(np.arange(30), samples))

    one, eight = of(1), of(8)
    for once, often in ((one.reward, eight.reward), (one.kl_per_sequence, eight.kl_per_sequence)):
        assert (often.mean, often.low, often.high) == pytest.approx((once.mean, once.low, once.high))
    assert (eight.success.low, eight.success.high) == pytest.approx((one.success.low, one.success.high), abs=0.01)


def test_a_policy_that_is_always_right_has_an_honest_interval() -> None:
    figures = measured(*(group(i, 1.0, 1.0) for i in range(10)))
    assert (figures.success.mean, figures.success.high) == (1.0, 1.0)
    assert 0.6 < figures.success.low < 0.8
    # Rewards have no known bounds: equal ones say nothing of how far others may be.
    assert str(figures.reward) == "1 (no interval)"


def test_policies_are_compared_on_the_prompts_both_have_a_reward_of() -> None:
    better = measured(group(0, 1.0), group(1, 1.0), group(2, 0.0), group(3, None))
    worse = measured(group(0, 0.0), group(1, 1.0), group(2, 1.0), group(3, 1.0))
    (((one, other), won),) = compare_pairs({"worse": worse, "better": better}).items()
    assert (one, other) == ("better", "worse")
    assert (won.num_wins, won.num_ties, won.num_losses, won.rate) == (1, 1, 1, 0.5)


def test_policies_without_a_rewarded_prompt_in_common_are_not_compared_with_each_other() -> None:
    one, other = measured(group(0, 1.0), group(1, None)), measured(group(0, None), group(1, 1.0))
    assert compare_pairs({"one": one, "other": other}) == {}


def test_a_divergence_from_a_model_that_rules_a_token_out_is_infinite_and_has_no_interval() -> None:
    nats, prompts = np.array([0.5, np.inf, 1.0]), np.array([0, 0, 1])
    groups = [group(0, 1.0, 0.0), group(1, 1.0)]
    figures = measure_policy(composed(one=Path("one")), "one", groups, nats, prompts)
    assert str(figures.kl_per_sequence) == "inf (no interval)"


def test_divergence_is_summed_over_each_completion_and_knows_its_prompt() -> None:
    sizes = {2: 3, 0: 2, 1: 4}
    rows = [Row(group=i, index=0, num_tokens=size, num_loss_tokens=size - 1) for i, size in sizes.items()]
    packs = (Pack(rows=tuple(rows[:2])), Pack(rows=(rows[2],)))
    batch = Batch(step=0, minibatches=(Minibatch(groups=(), packs=packs),), order=(0,))
    ours = [np.array([0, -1, -2, 0, -3], np.float32), np.array([0, -1, -1, -1], np.float32)]
    theirs = [np.array([0, -2, -2, 0, -5], np.float32), np.array([0, 0, -1, -1], np.float32)]
    nats, prompts = divergence(batch, ours, theirs)
    assert nats.tolist() == [1.0, 2.0, -1.0]
    assert prompts.tolist() == [2, 0, 1]


def trained(folder: Path, model: Path, seconds: float) -> Path:
    """The run folder of a training as far as it is read; its model."""
    config = as_plain(compose(CONF, "sft", ["data=supervised", f"model={model}", f"output={folder}", "data.path=p"],
                              object))  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text(
        json.dumps({"step": -1, "held_out/loss": 1.0})
        + "\n"
        + json.dumps({"step": 0, "seconds/step": seconds, "tokens": 10.0})
        + "\n"
    )
    with committing(folder / "model", {"kind": "model", "config": config, "metrics": {}}):
        pass
    return folder / "model"


def test_what_a_policy_cost_is_of_the_runs_that_led_to_it_and_not_to_the_reference(tmp_path: Path) -> None:
    sft = trained(tmp_path / "sft", tmp_path / "base", 1.0)
    middle = trained(tmp_path / "middle", sft, 2.0)
    last = trained(tmp_path / "last", middle, 4.0)
    assert runs_behind(last) == {tmp_path / "sft", tmp_path / "middle", tmp_path / "last"}
    config = composed(last=last)
    config.model = str(sft)
    figures = measure_policy(config, str(last), [group(0, 1.0), group(1, 1.0)], np.zeros(2), np.arange(2))
    assert (figures.training_seconds, figures.training_tokens) == (6.0, 20.0)
    assert [Path(run).name for run in figures.trained_in] == ["last", "middle"]


def test_the_report_is_written_as_table_record_and_plot(tmp_path: Path) -> None:
    figures = {"ppo": measured(group(0, 1.0), group(1, 0.0), group(2, 1.0)), "dpo": measured(group(0, 0.0))}
    figures["dpo"] = measured(group(0, 0.0), group(1, 0.0), group(2, 1.0))
    write_comparison(figures, {"ppo": [("1+1=", "2")], "dpo": [("1+1=", "3")]}, tmp_path)
    table = (tmp_path / "report.md").read_text()
    assert "| dpo against ppo | 0.333 (" in table
    assert "| 1+1= | 2 | 3 |" in table
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["policies"]["ppo"]["rewards"] == [1.0, 0.0, 1.0]
    assert record["pairs"][0]["num_ties"] == 2
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_there_is_at_least_one_policy() -> None:
    with pytest.raises(InputError, match="policies"):
        composed()
