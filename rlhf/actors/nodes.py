"""The machines of a cluster: which worker is where, and whether a run can work on them."""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlhf.actors.preflight import NONCE, NodeReport, PreflightConfig, examine, judge, rounds
from rlhf.types import RunError

ACCELERATOR = "GPU"
KIND = "accelerator_type:"
"""Ray's resource of a node with real accelerators begins so and ends with their kind; pretended ones have none."""
MEETING = ".tmp-preflight"
"""In the output folder; what a killed run leaves of it is removed like any unfinished folder."""
NUM_EXCHANGED = 1 << 20
"""float32 numbers that two nodes exchange: more than socket buffers hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: str
    name: str
    """Its address and the beginning of its id, which the dashboard shows."""
    temporary: Path
    """Ray's folder of this session."""
    num_accelerators: int
    accelerated: bool
    """Whether its accelerators are real."""
    num_cpus: int


def has_accelerators() -> bool:
    """Return whether any node of the cluster has real accelerators; the driver's own may have none."""
    return names_a_kind(ray.cluster_resources())


def names_a_kind(resources: Mapping[str, float]) -> bool:
    """Return whether Ray names the kind of accelerators among these resources, which it does of real ones alone."""
    return any(resource.startswith(KIND) for resource in resources)


def nodes() -> dict[str, Node]:
    """The nodes that are alive, by their ids."""
    return {
        node["NodeID"]: Node(
            id=node["NodeID"],
            name=f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})",
            temporary=Path(node["ObjectStoreSocketName"]).parents[1],
            num_accelerators=int(node["Resources"].get(ACCELERATOR, 0)),
            accelerated=names_a_kind(node["Resources"]),
            num_cpus=int(node["Resources"].get("CPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def nodes_of(bundles: PlacementGroup) -> list[str]:
    """The name of each bundle's node. The placement group must be ready."""
    known = nodes()
    placed = placement_group_table(bundles)["bundles_to_node_id"]
    return [known[placed[index]].name for index in range(bundles.bundle_count)]


def free_address() -> tuple[str, int]:
    """Where others can meet this process: this node and a free port."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


class NodeProbe:
    """A process on a node that answers for it."""

    def examine(self, node: str, meeting: Path, nonce: str, temporary: Path) -> NodeReport:
        return examine(node, meeting, nonce, temporary)

    def address(self) -> tuple[str, int]:
        return free_address()

    def meet(self, rank: int, address: tuple[str, int], timeout_s: float) -> None:
        """Join one other process in a gloo group, reduce with it, and send there and back."""
        import torch
        from torch import distributed

        host, port = address
        distributed.init_process_group(
            "gloo", f"tcp://{host}:{port}", timedelta(seconds=timeout_s), world_size=2, rank=rank
        )
        numbers = torch.ones(NUM_EXCHANGED)
        distributed.all_reduce(numbers)
        for sender in (0, 1):
            if rank == sender:
                distributed.send(numbers, 1 - rank)
            else:
                distributed.recv(numbers, 1 - rank)
        distributed.destroy_process_group()
        if not bool((numbers == 2).all()):
            raise RunError("the numbers that arrived are not those that were sent")


def check_nodes(output: Path, config: PreflightConfig) -> None:
    """See that a run can work on the driver's node and on all with accelerators. Raises RunError with what is wrong.

    One node answers in this process and talks to no other; several answer through an actor each, without accelerators.
    """
    here = ray.get_runtime_context().get_node_id()
    found = [node for node in nodes().values() if node.num_accelerators or node.id == here]
    found.sort(key=lambda node: node.id != here)  # the others are compared with the driver's
    nonce, meeting = secrets.token_hex(8), output / MEETING
    meeting.mkdir()
    try:
        (meeting / NONCE).write_text(nonce, encoding="utf-8")
        if len(found) == 1:
            refuse(judge([examine(found[0].name, meeting, nonce, found[0].temporary)], config))
        else:
            ask_all(found, meeting, nonce, config)
    finally:
        shutil.rmtree(meeting)


def ask_all(found: Sequence[Node], meeting: Path, nonce: str, config: PreflightConfig) -> None:
    probes = [
        ray.remote(num_cpus=0, max_restarts=0)(NodeProbe)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
        .remote()
        for node in found
    ]
    try:
        asked = {
            f"node {node.name} cannot be used": [probe.examine.remote(node.name, meeting, nonce, node.temporary)]
            for node, probe in zip(found, probes, strict=True)
        }
        reports = [report for (report,) in answers(asked, config.timeout_s)]
        refuse(judge([signed(report, meeting) for report in reports], config))
        check_pairs([node.name for node in found], probes, config.timeout_s)
    finally:
        for probe in probes:
            ray.kill(probe)


def signed(report: NodeReport, meeting: Path) -> NodeReport:
    """The report, corrected where what the node wrote did not come here."""
    return replace(report, shares_output=report.shares_output and (meeting / report.node).is_file())


def check_pairs(names: Sequence[str], probes: Sequence[Any], timeout_s: float) -> None:
    """Let every two nodes exchange tensors, as learners will. Raises RunError naming the pairs that could not."""
    for pairs in rounds(len(names)):
        hosts = {f"node {names[a]} cannot be used": [probes[a].address.remote()] for a, _ in pairs}
        addresses = [address for (address,) in answers(hosts, timeout_s)]
        met = {
            f"nodes {names[a]} and {names[b]} cannot exchange tensors (firewall? GLOO_SOCKET_IFNAME?)": [
                probes[member].meet.remote(rank, address, timeout_s) for rank, member in enumerate((a, b))
            ]
            for (a, b), address in zip(pairs, addresses, strict=True)
        }
        answers(met, timeout_s)


def answers(asked: dict[str, list[Any]], timeout_s: float) -> list[list[Any]]:
    """What was asked of each, or a RunError; the keys say what is wrong where one fails or is late."""
    references = [reference for group in asked.values() for reference in group]
    ready = set(ray.wait(references, num_returns=len(references), timeout=timeout_s)[0])
    problems, results = [], []
    for trouble, group in asked.items():
        try:
            results.append(ray.get([reference for reference in group if reference in ready]))
        except RayError as error:
            problems.append(f"{trouble}: {str(error).strip().splitlines()[-1]}")
        else:
            if not ready.issuperset(group):
                problems.append(f"{trouble}: no answer within preflight.timeout_s={timeout_s:g}")
    refuse(problems)
    return results


def refuse(problems: Sequence[str]) -> None:
    if problems:
        raise RunError(f"preflight: {'; '.join(problems)}")
