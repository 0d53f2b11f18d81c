"""Where roles sit changes no number: on accelerators of their own, sharing them by turns, or some of each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.config import OnlineConfig
from tests.e2e.conftest import PPO
from tests.e2e.test_one_loop import Recorder, figures, run_system, weights_of

RECIPE = (*PPO, "train.num_epochs=2")
SHARED = {
    "colocated": ("[[policy,critic,reference,sampler]]", 2),
    "mixed": ("[[policy,critic],[reference,sampler]]", 3),
}


@pytest.fixture(scope="module")
def separate(
    all_roles: Any, beginning: Path, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> tuple[Recorder, dict[str, np.ndarray], dict[str, np.ndarray]]:
    for name, role in all_roles.learners.items():
        run_async(role.load(beginning / name))
    recorder, _, weights = run_async(run_system(compose(*RECIPE), all_roles))
    return recorder, weights, run_async(weights_of(all_roles.critic))


@pytest.fixture(params=SHARED)
def together(
    request: pytest.FixtureRequest, cluster: None, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> Iterator[tuple[Any, OnlineConfig, Any]]:
    from rlhf.actors.placement import reserved
    from rlhf.stages.online.job import prepare
    from rlhf.stages.online.roles import start_roles
    from rlhf.train.clock import Clock

    colocate, num_accelerators = SHARED[request.param]
    config, clock = compose(*RECIPE, f"placement.colocate={colocate}"), Clock()
    job = prepare(config)
    assert job.plan.num_accelerators == num_accelerators
    with reserved(job.plan, 300) as bundles:
        roles = run_async(start_roles(job, bundles, clock))
        yield roles, config, clock
        run_async(roles.samplers.close())


def test_the_same_numbers_wherever_the_roles_sit(
    separate: tuple[Recorder, dict[str, np.ndarray], dict[str, np.ndarray]],
    together: tuple[Any, OnlineConfig, Any],
    run_async: Callable[..., Any],
) -> None:
    apart, policy, critic = separate
    roles, config, clock = together
    recorder, _, weights = run_async(run_system(config, roles))
    measured = clock.take_figures()
    for ours, theirs in zip(recorder.rollouts, apart.rollouts, strict=True):
        assert [r.token_ids.tolist() for g in ours for r in g] == [r.token_ids.tolist() for g in theirs for r in g]
    for name in ("loss", "gradient_norm", "kl", "critic/loss", "critic/gradient_norm", "critic/return"):
        assert figures(recorder, name) == figures(apart, name), name
    assert all((weights[name] == policy[name]).all() for name in policy)
    critic_weights = run_async(weights_of(roles.critic))
    assert all((critic_weights[name] == critic[name]).all() for name in critic)
    # Every role that left its accelerators and came back was measured each time.
    moved = {name.removeprefix("bytes_after_onload/") for name in measured if name.startswith("bytes_after_onload/")}
    assert {"policy", "critic", "sampler"} <= moved
    assert all(value > 1 << 20 for value in measured.values())
