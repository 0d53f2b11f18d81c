"""The loop at max_staleness=0 is the straight-line trainer: Ray, ZeRO-3, packs and references change nothing."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.config import OnlineConfig
from tests.e2e.conftest import PPO
from tests.oracles import straight_line, straight_ppo


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


async def run_system(
    config: OnlineConfig, roles: Any, root: Path | None = None
) -> tuple[Recorder, Any, dict[str, np.ndarray]]:
    """Train on roles that may have served another algorithm; what each step saw, the job, the policy's parameters.

    `root`: a run's folder, for metrics, validations and checkpoints. None: without them.
    """
    from rlhf.data.order import PromptOrder
    from rlhf.stages.online.job import prepare
    from rlhf.stages.online.results import checkpointer_of, validation_of
    from rlhf.stages.online.roles import lay_out
    from rlhf.stages.online.run import assemble, with_transport
    from rlhf.train.clock import Clock
    from rlhf.train.run_folder import RunFolder
    from rlhf.train.stop import Stop
    from rlhf.train.stream import RolloutStream
    from rlhf.train.tracking import MetricsLog

    job = prepare(config)
    for role in roles.learners.values():
        role.algorithm = job.algorithm
    roles = dataclasses.replace(roles, critic=roles.critic if config.algorithm.has_critic else None)
    job, recorder = await lay_out(job, roles), Recorder()
    stream = RolloutStream(PromptOrder(job.prompts, config.seed), roles.samplers, job.algorithm, config.stream)
    callbacks: list[Any] = [recorder]
    begin, stop = None, Stop()
    if root is not None:
        log, checkpointer = MetricsLog(root, 0), checkpointer_of(job, RunFolder(root), roles.learners, stream)
        validation = validation_of(job, roles.policy, roles.samplers, checkpointer, log, stop, 0)
        callbacks, begin = [recorder, log, checkpointer, validation], validation.begin
    trainer = assemble(with_transport(job), roles, stream, Clock(), 0, callbacks, stop, begin)
    await trainer.fit()
    return recorder, job, await weights_of(roles.policy)


async def weights_of(role: Any) -> dict[str, np.ndarray]:
    from rlhf.actors.roles import fetch
    from rlhf.runtimes.buckets import unpack

    weights = {}
    async for references in role.workers.stream("weights", 1 << 20):
        weights |= {name: tensor.numpy().copy() for name, tensor in unpack(fetch(references)[0])}
    return weights


class OracleSide:
    """What an oracle shares with the loop: the engine it samples from and the membership of minibatches."""

    def __init__(self, config: OnlineConfig, job: Any, roles: Any, run_async: Callable[..., Any]) -> None:
        from rlhf.data.order import PromptOrder

        self.config, self.job, self.roles, self.run_async = config, job, roles, run_async
        self.order = PromptOrder(job.prompts, config.seed)
        self.sampled: list[Any] = []

    def sample(self, model: Any, step: int) -> tuple[list[Any], list[list[float]]]:
        from rlhf.actors.roles import fetch

        groups = self.run_async(self.collect(model, step))
        self.sampled.append(groups)
        return fetch([group.rollouts for group in groups]), [
            [info.score.value for info in group.infos] for group in groups
        ]

    async def collect(self, model: Any, step: int) -> list[Any]:
        import ray

        from rlhf.runtimes.buckets import pack

        await self.roles.samplers.load_begin()
        await self.roles.samplers.load([ray.put(pack(list(model.named_parameters())))])
        await self.roles.samplers.load_finish(step)
        groups, per_step = [], self.config.stream.prompts_per_step
        for position in range(step * per_step, (step + 1) * per_step):
            epoch, prompt = self.order.prompt_at(position)
            groups.append(await self.roles.samplers.collect(prompt, epoch, self.job.algorithm.requests(prompt)))
        return groups

    def membership(self, _: Any, step: int) -> list[list[tuple[int, int]]]:
        from rlhf.train.batching import RowGroup, deal, packing_of
        from rlhf.train.online import row_group

        train = self.config.train
        dealt: list[RowGroup] = [row_group(group, [0.0] * len(group.survivors)) for group in self.sampled[step]]
        batch = deal(dealt, step=step, num_minibatches=train.num_minibatches, num_epochs=train.num_epochs,
                     packing=packing_of(self.job.config.backend, 1), seed=0)  # fmt: skip
        positions = {group.rollouts: i for i, group in enumerate(self.sampled[step])}
        return [
            [(positions[batch.minibatches[m].groups[row.group]], row.index) for row in batch.minibatches[m].rows]
            for m in batch.order
        ]


def assert_same_rollouts(recorder: Recorder, history: list[Any], oracle: OracleSide) -> None:
    for ours, oracles in zip(recorder.rollouts, history, strict=True):
        assert [r.token_ids.tolist() for g in ours for r in g] == [r.token_ids.tolist() for g in oracles for r in g]
    for report, sampled in zip(recorder.reports, oracle.sampled, strict=True):
        assert [i.score for g in report.groups for i in g.infos] == [i.score for g in sampled for i in g.infos]


def assert_same_parameters(weights: dict[str, np.ndarray], model: Any) -> None:
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(weights[name], parameter.detach().numpy(), atol=5e-5, err_msg=name)


def figures(recorder: Recorder, name: str) -> list[float]:
    return [report.stats.values()[name] for report in recorder.reports]


def test_three_steps_equal_the_straight_line_trainer(
    roles: Any, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    from rlhf.train.schedule import learning_rate

    config = compose()
    recorder, job, weights = run_async(run_system(config, roles))
    oracle = OracleSide(config, job, roles, run_async)
    model, losses, history = straight_line.train(
        config.model,
        oracle.sample,
        oracle.membership,
        learning_rates=[learning_rate(config.optimizer, step, config.train.num_steps) for step in range(3)],
        banned=list(job.distribution.banned_token_ids),
        clip=(config.algorithm.clip_low, config.algorithm.clip_high),
        kl_coef=config.algorithm.kl_coef,
        clipping=config.optimizer.gradient_clipping,
    )
    assert_same_rollouts(recorder, history, oracle)
    np.testing.assert_allclose(figures(recorder, "loss"), losses, atol=1e-5)
    assert_same_parameters(weights, model)
    # The rollouts were on-policy, so what the engine gave is what the learner computes.
    assert recorder.reports[0].stats.maxima["rollout_ratio_deviation_max"] < 1e-5
    versions = {int(v) for group in recorder.rollouts[2] for r in group for v in r.versions[r.loss_mask]}
    assert versions == {2}


def test_ppo_with_its_critic_equals_the_straight_line_trainer(
    roles: Any, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    """Two epochs of two minibatches: old logprobs, values and credit are those of before the first update."""
    from rlhf.train.schedule import learning_rate

    config = compose(*PPO, "train.num_epochs=2")
    algorithm = config.algorithm
    recorder, job, weights = run_async(run_system(config, roles))
    critic_weights = run_async(weights_of(roles.critic))
    oracle = OracleSide(config, job, roles, run_async)
    policy, critic, losses, history = straight_ppo.train(
        config.model,
        oracle.sample,
        oracle.membership,
        learning_rates=[
            (learning_rate(config.optimizer, step, 3), learning_rate(config.critic.optimizer, step, 3))
            for step in range(3)
        ],
        banned=list(job.distribution.banned_token_ids),
        clip=(algorithm.clip_low, algorithm.clip_high),
        kl_coef=algorithm.kl_coef,
        gamma=algorithm.gamma,
        gae_lambda=algorithm.gae_lambda,
        clip_value=algorithm.clip_value,
        value_coef=algorithm.value_coef,
        clipping=config.optimizer.gradient_clipping,
    )
    assert_same_rollouts(recorder, history, oracle)
    np.testing.assert_allclose(figures(recorder, "loss"), [loss for loss, _ in losses], atol=1e-5)
    np.testing.assert_allclose(figures(recorder, "critic/loss"), [loss for _, loss in losses], atol=1e-5)
    assert_same_parameters(weights, policy)
    assert_same_parameters(critic_weights, critic)
    assert len(critic_weights) == len(list(critic.parameters()))


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
