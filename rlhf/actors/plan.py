"""Placement as data: which role takes how many accelerators. Knows no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class PlacementConfig:
    """Accelerators of each role; engines take `sampler.num_engines * sampler.tensor_parallel_size` more.

    On a machine without GPUs they are pretended: a worker per accelerator, on the CPU.
    """

    policy: int = 1
    """Ranks of the policy's learner, one accelerator each."""
    reference: int = 1
    """Ranks of the frozen reference, where the algorithm reads one."""
    timeout_s: float = 120.0
    """How long to wait for the cluster to grant the accelerators."""
    start_timeout_s: float = 900.0
    """How long loading models and starting engines may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePlan:
    """The workers of one role."""

    role: str
    num_workers: int
    accelerators_per_worker: int = 1

    @property
    def num_accelerators(self) -> int:
        return self.num_workers * self.accelerators_per_worker


@dataclass(frozen=True, slots=True)
class Plan:
    """All workers of a run, each role on accelerators of its own."""

    roles: tuple[RolePlan, ...]

    @property
    def num_accelerators(self) -> int:
        return sum(role.num_accelerators for role in self.roles)

    @property
    def num_workers(self) -> int:
        return sum(role.num_workers for role in self.roles)

    def role(self, name: str) -> RolePlan:
        return next(role for role in self.roles if role.role == name)


def make_plan(roles: Sequence[RolePlan]) -> Plan:
    for role in roles:
        if role.num_workers < 1 or role.accelerators_per_worker < 1:
            raise InputError(
                f"placement: {role.role} has {role.num_workers} workers of {role.accelerators_per_worker} "
                "accelerators; give at least 1 of each"
            )
    return Plan(tuple(roles))
