"""The next trial of a search, drawn by Optuna from the results of the earlier ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf.sweeps.config import Sampler
from rlhf.sweeps.pruning import Curve
from rlhf.sweeps.record import Member, State
from rlhf.sweeps.space import Numbers, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A member and its result so far; more is better."""

    member: Member
    value: float | None = None
    """Objective of a member that trained to its end."""
    curve: Curve
    """Objective of a pruned member by training steps."""


def draw(space: Space, trials: Sequence[Trial], sampler: Sampler, seed: str) -> dict[str, str]:
    """Return values of the swept keys for one more trial. The same arguments give the same values."""
    # Imported here: it takes a second, and most sweeps are grids.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = random.Random(seed).getrandbits(32)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=number, constant_liar=True)
        if sampler is Sampler.tpe
        else optuna.samplers.RandomSampler(seed=number),
    )
    distributions = {key: distribution(values) for key, values in space.items()}
    for trial in trials:
        # A search that continues with a smaller space learns from the members inside it.
        if all(values.contains(trial.member.swept[key]) for key, values in space.items()):
            study.add_trial(frozen(space, distributions, trial))
    params = study.ask(distributions).params
    return {key: values.text(params[key]) if isinstance(values, Numbers) else params[key]
            for key, values in space.items()}  # fmt: skip


def distribution(values: Any) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Numbers):
        return CategoricalDistribution(values.values)
    if values.is_whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def frozen(space: Space, distributions: dict[str, BaseDistribution], trial: Trial) -> FrozenTrial:
    """Return a trial as Optuna has it."""
    from optuna.trial import TrialState, create_trial

    states = {State.done: TrialState.COMPLETE, State.failed: TrialState.FAIL, State.pruned: TrialState.PRUNED}
    params = {
        key: type(values.low)(text) if isinstance(values := space[key], Numbers) else text
        for key, text in trial.member.swept.items()
    }
    return create_trial(
        state=states.get(trial.member.state, TrialState.RUNNING),
        value=trial.value,
        params=params,
        distributions=distributions,
        intermediate_values=dict(trial.curve),
    )
