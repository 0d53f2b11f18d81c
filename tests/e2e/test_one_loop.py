"""The loop at max_staleness=0 is the straight-line trainer: Ray, ZeRO-3, packs and references change nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rlhf.config import OnlineConfig
from tests.oracles import straight_line


class Recorder:
    """Keeps what each step saw."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.rollouts: list[Any] = []

    async def on_step(self, report: Any) -> bool:
        from rlhf.actors.roles import fetch

        self.reports.append(report)
        self.rollouts.append(fetch([group.rollouts for group in report.groups]))
        return False


async def run_system(config: OnlineConfig, roles: Any) -> tuple[Recorder, Any, dict[str, np.ndarray]]:
    from rlhf.actors.roles import fetch
    from rlhf.data.prompts import PromptOrder
    from rlhf.runtimes.buckets import unpack
    from rlhf.stages.job import prepare
    from rlhf.stages.online import assemble
    from rlhf.train.clock import Clock
    from rlhf.train.stream import RolloutStream

    job = prepare(config)
    recorder = Recorder()
    stream = RolloutStream(PromptOrder(job.prompts, config.seed), roles.samplers, job.algorithm, config.stream)
    trainer = assemble(job, roles, stream, Clock(), 0, [recorder])
    await trainer.fit()
    weights = {}
    async for reference in roles.policy.weights(1 << 20):
        weights |= {name: tensor.numpy().copy() for name, tensor in unpack(fetch([reference])[0])}
    return recorder, job, weights


def test_three_steps_equal_the_straight_line_trainer(
    roles: Any, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    import ray

    from rlhf.actors.roles import fetch
    from rlhf.data.prompts import PromptOrder
    from rlhf.runtimes.buckets import pack
    from rlhf.train.batching import RowGroup, deal, packing_of
    from rlhf.train.online import row_group
    from rlhf.train.schedule import learning_rate

    config = compose()
    recorder, job, weights = run_async(run_system(config, roles))
    order = PromptOrder(job.prompts, config.seed)
    per_step = config.stream.prompts_per_step

    async def sample_with(model: Any, step: int) -> list[Any]:
        await roles.samplers.load_begin()
        await roles.samplers.load(ray.put(pack(list(model.named_parameters()))))
        await roles.samplers.load_finish(step)
        groups = []
        for position in range(step * per_step, (step + 1) * per_step):
            epoch, prompt = order.prompt_at(position)
            groups.append(await roles.samplers.collect(prompt, epoch, job.algorithm.requests(prompt)))
        sampled.append(groups)
        return fetch([group.rollouts for group in groups])

    def membership(_: Any, step: int) -> list[list[tuple[int, int]]]:
        dealt: list[RowGroup] = [row_group(group, [0.0] * len(group.survivors)) for group in sampled[step]]
        batch = deal(dealt, step=step, num_minibatches=2, num_epochs=1, packing=packing_of(config.backend, 1), seed=0)
        positions = {group.rollouts: i for i, group in enumerate(sampled[step])}
        return [
            [(positions[batch.minibatches[m].groups[row.group]], row.index) for row in batch.minibatches[m].rows]
            for m in batch.order
        ]

    sampled: list[Any] = []
    model, losses, history = straight_line.train(
        config.model,
        lambda model, step: run_async(sample_with(model, step)),
        membership,
        learning_rates=[learning_rate(config.optimizer, step, config.train.num_steps) for step in range(3)],
        banned=list(job.distribution.banned_token_ids),
        clip=(config.algorithm.clip_low, config.algorithm.clip_high),
        kl_coef=config.algorithm.kl_coef,
        clipping=config.optimizer.gradient_clipping,
    )
    for step in range(3):
        ours, oracles = recorder.rollouts[step], history[step]
        assert [r.token_ids.tolist() for g in ours for r in g] == [r.token_ids.tolist() for g in oracles for r in g]
        assert [r.score for g in ours for r in g] == [r.score for g in oracles for r in g]
    np.testing.assert_allclose([report.stats.values()["loss"] for report in recorder.reports], losses, atol=1e-5)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(weights[name], parameter.detach().numpy(), atol=5e-5, err_msg=name)
    # The rollouts were on-policy, so what the engine gave is what the learner computes.
    assert recorder.reports[0].stats.maxima["rollout_ratio_deviation_max"] < 1e-5
    versions = {int(v) for group in recorder.rollouts[2] for r in group for v in r.versions[r.loss_mask]}
    assert versions == {2}


def test_asynchronous_training_is_the_same_loop_within_its_staleness(
    roles: Any, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    recorder, _, _ = run_async(run_system(compose("stream.max_staleness=2", "train.num_steps=5"), roles))
    lags = []
    for report in recorder.reports:
        versions = [info.versions for group in report.groups for info in group.infos]
        assert all(oldest <= newest <= report.step for oldest, newest in versions)
        lags.append(max(report.step - oldest for oldest, _ in versions))
    assert max(lags) <= 2
    assert lags[-1] > 0, "nothing was sampled ahead"
    prompts = [
        (group.prompt.id, info.id) for report in recorder.reports for group in report.groups for info in group.infos
    ]
    assert len(set(prompts)) == len(prompts) == 5 * 4 * 4
