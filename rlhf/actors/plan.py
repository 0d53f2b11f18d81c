"""Placement as data: accelerators of each role, and which roles share them. Without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf.types import InputError

ROLES = ("policy", "reference", "teacher", "critic", "reward", "sampler")


@dataclass(kw_only=True, slots=True)
class PlacementConfig:
    """Accelerators of each role; engines take `sampler.num_engines * sampler.tensor_parallel_size` more.

    On a machine without GPUs accelerators are simulated: one worker per accelerator, on the CPU.
    """

    policy: int = 1
    """Ranks of the policy's learner, one accelerator each."""
    reference: int = 1
    """Ranks of the frozen reference, if the algorithm reads one."""
    teacher: int | None = None
    """Ranks of the frozen teacher, one accelerator each. None: 1 if the algorithm learns from a teacher."""
    critic: int | None = None
    """Ranks of the critic's learner, one accelerator each. None: 1 if the algorithm has a critic."""
    reward: int | None = None
    """Copies of the reward model, one accelerator each. None: 1 if `reward.model` is set."""
    colocate: list[list[str]] = field(default_factory=list)
    """Roles that share accelerators, as lists of policy, reference, teacher, critic, reward and sampler. They take
    turns: an idle role releases its memory. Roles in no list have their own accelerators."""
    num_nodes: int | None = None
    """Number of nodes that the run is planned for, checked before Ray starts. None: the cluster's, checked there."""
    accelerators_per_node: int | None = None
    """Accelerators of each of those nodes; set together with `num_nodes`."""
    timeout_s: float = 120.0
    """Seconds to wait for the cluster to grant the accelerators."""
    start_timeout_s: float = 900.0
    """Seconds that loading models and starting engines may take."""

    def __post_init__(self) -> None:
        if (self.num_nodes is None) != (self.accelerators_per_node is None):
            raise InputError(
                f"placement.num_nodes={self.num_nodes}, placement.accelerators_per_node={self.accelerators_per_node}: "
                "set both, or neither"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePlan:
    """The workers of one role."""

    role: str
    num_workers: int
    accelerators_per_worker: int = 1
    steps_on_cpu: bool = False
    """True if the optimiser's states are in host memory, so that CPUs compute the steps."""

    @property
    def num_accelerators(self) -> int:
        return self.num_workers * self.accelerators_per_worker

    @property
    def phase(self) -> str:
        """Return the role's phase: a reward model scores while engines sample, so they share a phase."""
        return "rollout" if self.role in ("sampler", "reward") else self.role


@dataclass(frozen=True, slots=True)
class AcceleratorGroup:
    """Bundles of accelerators, each on one node: the i-th worker of every role of the group has the i-th bundle."""

    roles: tuple[RolePlan, ...]

    @property
    def num_bundles(self) -> int:
        return max(role.num_workers for role in self.roles)

    @property
    def bundle_size(self) -> int:
        """Number of accelerators of a bundle."""
        return self.roles[0].accelerators_per_worker

    def cpus(self, per_bundle: int) -> dict[str, int]:
        """Divide the `per_bundle` CPUs of a bundle among the roles' workers: one each, and optimisers on the CPU share
        the rest."""
        busy = sum(role.steps_on_cpu for role in self.roles)
        more = max(per_bundle - len(self.roles), 0) // busy if busy else 0
        return {role.role: 1 + more if role.steps_on_cpu else 1 for role in self.roles}

    @property
    def takes_turns(self) -> bool:
        """Return whether roles of more than one phase share these accelerators."""
        return len({role.phase for role in self.roles}) > 1

    @property
    def name(self) -> str:
        return "+".join(role.role for role in self.roles)


@dataclass(frozen=True, slots=True)
class Plan:
    """All workers of a run and the accelerators they have."""

    groups: tuple[AcceleratorGroup, ...]

    @property
    def roles(self) -> tuple[RolePlan, ...]:
        return tuple(role for group in self.groups for role in group.roles)

    @property
    def num_accelerators(self) -> int:
        return sum(group.num_bundles * group.bundle_size for group in self.groups)

    @property
    def num_workers(self) -> int:
        return sum(role.num_workers for role in self.roles)

    def has(self, name: str) -> bool:
        return any(role.role == name for role in self.roles)

    def role(self, name: str) -> RolePlan:
        return next(role for role in self.roles if role.role == name)

    def group_of(self, role: str) -> AcceleratorGroup:
        return next(group for group in self.groups if role in (member.role for member in group.roles))

    def only(self, *names: str) -> Plan:
        """Return the plan restricted to these roles; names of other roles are ignored."""
        kept = (tuple(role for role in group.roles if role.role in names) for group in self.groups)
        return Plan(tuple(AcceleratorGroup(members) for members in kept if members))


def make_plan(roles: Sequence[RolePlan], colocate: Sequence[Sequence[str]] = ()) -> Plan:
    """Make the plan of a run. Roles in one list of `colocate` share accelerators; roles that the run lacks are ignored.

    Raises InputError if a role has no worker, a list names an unknown role or a role twice, or roles that share need
    bundles of different sizes.
    """
    for role in roles:
        if role.num_workers < 1 or role.accelerators_per_worker < 1:
            raise InputError(
                f"placement: {role.role} has {role.num_workers} workers of {role.accelerators_per_worker} "
                "accelerators; give at least 1 of each"
            )
    named = [name for names in colocate for name in names]
    for name in named:
        if name not in ROLES:
            raise InputError(f"placement.colocate names {name!r}, which is no role; known are {', '.join(ROLES)}")
        if named.count(name) > 1:
            raise InputError(f"placement.colocate names {name} twice; a role has one place")
    shared = [tuple(role for role in roles if role.role in names) for names in colocate]
    alone = [(role,) for role in roles if role.role not in named]
    groups = tuple(AcceleratorGroup(members) for members in (*shared, *alone) if members)
    for group in groups:
        if len({role.accelerators_per_worker for role in group.roles}) > 1:
            raise InputError(
                f"placement.colocate has {group.name}: engines of sampler.tensor_parallel_size="
                f"{max(role.accelerators_per_worker for role in group.roles)} cannot share accelerators with workers "
                "of one each; set it to 1, or remove the sampler from the list"
            )
    return Plan(groups)


def lay_out(plan: Plan, nodes: Sequence[int]) -> list[list[str]]:
    """Assign the groups' bundles to nodes, given as numbers of accelerators: larger bundles first, first fit.

    A bundle is on one node. Raises InputError with the group that does not fit.
    """
    free = list(nodes)
    layout: list[list[str]] = [[] for _ in nodes]
    bundles = [(group.bundle_size, group.name) for group in plan.groups for _ in range(group.num_bundles)]
    for size, name in sorted(bundles, key=lambda bundle: -bundle[0]):
        place = next((i for i, left in enumerate(free) if left >= size), None)
        if place is None:
            needs = ", ".join(f"{group.name} {group.num_bundles} x {group.bundle_size}" for group in plan.groups)
            raise InputError(
                f"placement: {plan.num_accelerators} accelerators are needed ({needs}) and the nodes have "
                f"{' + '.join(map(str, nodes)) or 0}; {name} does not fit: lower placement.* or sampler.*, let roles "
                "share by placement.colocate, or add nodes"
            )
        free[place] -= size
        layout[place].append(name)
    return layout
