"""Realisation of plans with Ray placement groups."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from rlhf.actors.connect import start_ray
from rlhf.actors.nodes import ACCELERATOR, cpus_per_accelerator, nodes
from rlhf.actors.plan import AcceleratorGroup, Plan, lay_out
from rlhf.lookup import user_files
from rlhf.types import InputError, RunError

Bundles = dict[AcceleratorGroup, PlacementGroup]
"""Placement group of each accelerator group, with one Ray bundle per bundle."""


@contextmanager
def cluster(*plans: Plan) -> Iterator[None]:
    """Connect to a cluster, or start one on this machine; disconnect at the end.

    A nested `cluster` block uses the outer block's cluster.

    `ray job submit` and `RAY_ADDRESS` name a cluster; without either none is joined, so a run never uses a cluster that
    happens to run here. Without GPUs, as many accelerators are simulated as the largest of the plans needs.
    """
    let_user_files_travel()
    if ray.is_initialized():
        yield
        return
    pretended = None
    if "RAY_ADDRESS" not in os.environ:
        # Imported here, since a driver that joins a cluster does not need torch's devices.
        import torch

        pretended = None if torch.cuda.is_available() else max(plan.num_accelerators for plan in plans)
    start_ray(num_cpus=max(os.cpu_count() or 1, *(plan.num_workers for plan in plans)), num_gpus=pretended)
    try:
        yield
    finally:
        ray.shutdown()


def let_user_files_travel() -> None:
    """Send what the user's own files define whole: other processes cannot import it, and need not find the files."""
    for module in user_files():
        ray.cloudpickle.register_pickle_by_value(module)


def check_capacity(plan: Plan) -> None:
    """Raise RunError if the cluster has too few accelerators or CPUs for the plan."""
    try:
        lay_out(plan, [node.num_accelerators for node in nodes().values()])
    except InputError as error:
        raise RunError(str(error)) from None
    num_cpus = int(ray.cluster_resources().get("CPU", 0))
    if plan.num_workers > num_cpus:
        raise RunError(
            f"placement: {plan.num_workers} workers take a CPU each and the cluster offers {num_cpus}; start its nodes "
            "with more (ray start --num-cpus), or lower placement.*"
        )


@contextmanager
def reserved(plan: Plan, timeout_s: float) -> Iterator[Bundles]:
    """Reserve one placement group per accelerator group; release them at the end, with any actors on them.

    Groups are granted in sequence, largest bundles first: small bundles granted earlier could leave no node with enough
    accelerators. Raises RunError if the cluster has too few accelerators, or too few free ones within the deadline for
    all groups together.
    """
    check_capacity(plan)
    bundles: Bundles = {}
    deadline, cpus = time.monotonic() + timeout_s, cpus_per_accelerator()
    try:
        for group in sorted(plan.groups, key=lambda group: -group.bundle_size):
            num_cpus = sum(group.cpus(cpus * group.bundle_size).values())
            bundles[group] = placement_group([{ACCELERATOR: group.bundle_size, "CPU": num_cpus}] * group.num_bundles)
            if not bundles[group].wait(max(deadline - time.monotonic(), 0)):
                free = ray.available_resources()
                raise RunError(
                    f"placement: the cluster did not grant {group.name} its {group.num_bundles} x {group.bundle_size} "
                    f"accelerators within placement.timeout_s={timeout_s:g}; free are {free.get(ACCELERATOR, 0):g} "
                    f"accelerators and {free.get('CPU', 0):g} CPUs: wait for other jobs, or lower placement.*"
                )
        yield bundles
    finally:
        for granted in bundles.values():
            remove_placement_group(granted)
