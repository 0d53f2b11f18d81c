"""The judge of a run, as a Ray actor: one owner, whose limits hold for all engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from pydantic import SecretStr
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlhf.actors.workers import first_line, own_error
from rlhf.judges.client import JudgeClient
from rlhf.judges.config import JudgeConfig
from rlhf.judges.rubric import Answer, RubricJudge
from rlhf.rewards.judged import Rate
from rlhf.types import Failure, RunError

CALLS = 1 << 16
"""Calls that may be open at once, beyond any number of groups in flight: the client bounds requests itself."""


class JudgeWorker:
    async def start(self, config: JudgeConfig, key: SecretStr | None, ledger_file: Path | None) -> None:
        self.client = JudgeClient(config, key, ledger_file=ledger_file)
        self.judge = RubricJudge(self.client, config)

    async def rate(self, answers: Sequence[Answer]) -> list[float | Failure]:
        return await self.judge.rate(answers)

    async def take_figures(self) -> dict[str, float]:
        return self.client.take_figures()

    async def close(self) -> None:
        await self.client.close()


class JudgeOwner:
    """The judge's actor, on the driver's node: the network and the run's folder are known to be there."""

    def __init__(self, config: JudgeConfig, ledger_file: Path | None) -> None:
        self.config, self.ledger_file = config, ledger_file
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # A restarted actor would have no state, so Ray must not restart it.
        remote_class = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=CALLS)(JudgeWorker)
        self.actor: Any = remote_class.options(scheduling_strategy=here).remote()

    async def start(self) -> None:
        # The key is an argument of this call alone: workers of a cluster do not have the driver's environment, and
        # Ray's dashboard shows environments.
        await guarded(self.actor.start.remote(self.config, self.config.api_key(), self.ledger_file))

    async def take_figures(self) -> dict[str, float]:
        return await guarded(self.actor.take_figures.remote())

    async def close(self) -> None:
        await guarded(self.actor.close.remote())


def rate_by(actor: Any) -> Rate:
    """Wrap the judge's actor for the rewards."""

    async def rate(answers: Sequence[Answer]) -> list[float | Failure]:
        return await guarded(actor.rate.remote(answers))

    return rate


async def guarded(result: Any) -> Any:
    """Return the result of a call of the judge's actor. Raises RunError if the actor died or failed."""
    try:
        return await result
    except RayTaskError as error:
        raise own_error(error) or RunError(f"the judge failed: {first_line(error)}") from error
    except RayActorError as error:
        raise RunError(f"the judge's actor died: {first_line(error)}; resume the run") from error
