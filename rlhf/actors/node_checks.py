"""Checks of a cluster's machines before a run: a report from each node, and an exchange of tensors between them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlhf.actors.accelerators import freest
from rlhf.actors.nodes import ACCELERATOR, Node, free_address, nodes
from rlhf.actors.preflight import NONCE, NodeReport, PreflightConfig, examine, judge, pairings
from rlhf.types import RunError

MEETING = ".tmp-preflight"
"""Name of a folder in the output folder; the folder of a killed run is removed like any unfinished folder."""
NUM_EXCHANGED = 1 << 20
"""Number of float32 values that two nodes exchange: more than socket buffers hold."""
DEVICES_PER_NODE = 2
"""Accelerators per node in the NCCL check: two exercise the links within the node and between nodes."""


class NodeProbe:
    """A process on a node that reports on it."""

    def examine(
        self,
        node: str,
        meeting: Path | None,
        nonce: str,
        temporary: Path,
        model_folders: Sequence[str],
        accelerated: bool,
    ) -> NodeReport:
        return examine(node, meeting, nonce, temporary, model_folders=model_folders, accelerated=accelerated)

    def address(self) -> tuple[str, int]:
        return free_address()

    def meet(
        self, rank: int, num_ranks: int, address: tuple[str, int], timeout_s: float, device: int | None = None
    ) -> None:
        """Join other processes, reduce over all and send around a ring: by gloo, or between `device`s by NCCL.

        Raises RunError if the received numbers differ from the sent ones. A process uses one device.
        """
        if device is not None:
            # Ray may hide all devices from a process that reserved none; torch reads these variables at its first use
            # of a device.
            os.environ.update(CUDA_DEVICE_ORDER="PCI_BUS_ID", CUDA_VISIBLE_DEVICES=str(device))
        import torch
        from torch import distributed

        where = torch.device("cpu" if device is None else "cuda:0")
        host, port = address
        distributed.init_process_group(
            "gloo" if device is None else "nccl",
            f"tcp://{host}:{port}",
            timedelta(seconds=timeout_s),
            world_size=num_ranks,
            rank=rank,
            device_id=None if device is None else where,
        )
        numbers = torch.ones(NUM_EXCHANGED, device=where)
        distributed.all_reduce(numbers)
        received = torch.zeros_like(numbers) if num_ranks > 1 else numbers
        if num_ranks > 1:
            sent = distributed.P2POp(distributed.isend, numbers, (rank + 1) % num_ranks)
            taken = distributed.P2POp(distributed.irecv, received, (rank - 1) % num_ranks)
            for work in distributed.batch_isend_irecv([sent, taken]):
                work.wait()
        right = bool((received == num_ranks).all())
        distributed.destroy_process_group()
        if not right:
            raise RunError("the received numbers differ from the sent ones")


def check_nodes(
    output: Path | None, config: PreflightConfig, engine_share: float | None = None, model_folders: Sequence[str] = ()
) -> None:
    """Check that a run can work on the driver's node and on all nodes with accelerators. Raises RunError with the
    problems.

    `output` is the folder that the run writes; None if it writes nothing. `model_folders` are absolute paths that
    workers load. `engine_share` is the share of an accelerator's memory that an engine takes; None without engines. A
    single node without GPUs is examined in this process; other nodes through an actor each, which reserves no
    accelerator.
    """
    here = ray.get_runtime_context().get_node_id()
    checked_nodes = [node for node in nodes().values() if node.num_accelerators or node.id == here]
    checked_nodes.sort(key=lambda node: node.id != here)  # the driver's node first: the others are compared with it
    nonce = secrets.token_hex(8)
    with meeting_place(output, nonce) if output else nullcontext() as meeting:
        if len(checked_nodes) == 1 and not checked_nodes[0].accelerated:
            refuse(judge([examine(checked_nodes[0].name, meeting, nonce, checked_nodes[0].temporary)], config))
        else:
            ask_all(checked_nodes, meeting, nonce, config, engine_share, model_folders)


@contextmanager
def meeting_place(output: Path, nonce: str) -> Iterator[Path]:
    """Create a folder in the output folder with a file that holds `nonce`; every node writes its file into it."""
    meeting = output / MEETING
    meeting.mkdir()
    try:
        (meeting / NONCE).write_text(nonce, encoding="utf-8")
        yield meeting
    finally:
        shutil.rmtree(meeting)


def ask_all(
    checked_nodes: Sequence[Node],
    meeting: Path | None,
    nonce: str,
    config: PreflightConfig,
    engine_share: float | None,
    model_folders: Sequence[str],
) -> None:
    probes = [probe_on(node.id) for node in checked_nodes]
    try:
        calls = {
            f"node {node.name} cannot be used": [
                probe.examine.remote(node.name, meeting, nonce, node.temporary, model_folders, node.accelerated)
            ]
            for node, probe in zip(checked_nodes, probes, strict=True)
        }
        reports = [report for (report,) in answers(calls, config.timeout_s)]
        granted = int(ray.available_resources().get(ACCELERATOR, 0))
        if meeting:
            reports = [with_signatures(report, meeting) for report in reports]
        refuse(judge(reports, config, engine_share=engine_share, num_granted=granted))
        check_pairs([node.name for node in checked_nodes], probes, config.timeout_s)
        check_nccl(checked_nodes, reports, config.timeout_s)
    finally:
        for probe in probes:
            ray.kill(probe)


def probe_on(node_id: str) -> Any:
    affinity = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, max_restarts=0)(NodeProbe).options(scheduling_strategy=affinity).remote()


def with_signatures(report: NodeReport, meeting: Path) -> NodeReport:
    """Return the report with `shares_output` False if the node's file has not arrived here."""
    return replace(report, shares_output=report.shares_output and (meeting / report.node).is_file())


def check_pairs(names: Sequence[str], probes: Sequence[Any], timeout_s: float) -> None:
    """Let pairs of nodes exchange tensors, as learners will. Raises RunError with the pairs that failed."""
    for pairs in pairings(len(names)):
        hosts = {f"node {names[a]} cannot be used": [probes[a].address.remote()] for a, _ in pairs}
        addresses = [address for (address,) in answers(hosts, timeout_s)]
        met = {
            f"nodes {names[a]} and {names[b]} cannot exchange tensors (firewall? GLOO_SOCKET_IFNAME?)": [
                probes[member].meet.remote(rank, 2, address, timeout_s) for rank, member in enumerate((a, b))
            ]
            for (a, b), address in zip(pairs, addresses, strict=True)
        }
        answers(met, timeout_s)


def check_nccl(checked_nodes: Sequence[Node], reports: Sequence[NodeReport], timeout_s: float) -> None:
    """Let accelerators of all nodes exchange tensors by NCCL, as learners and engines will. Raises RunError."""
    chosen = [
        (node, device)
        for node, report in zip(checked_nodes, reports, strict=True)
        if report.accelerators is not None
        for device in freest(report.accelerators, DEVICES_PER_NODE)
    ]
    if not chosen:
        return
    names = ", ".join(f"{device} of node {node.name}" for node, device in chosen)
    probes = [probe_on(node.id) for node, _ in chosen]
    try:
        ((address,),) = answers({f"accelerator {names} cannot be used": [probes[0].address.remote()]}, timeout_s)
        trouble = (
            f"accelerators {names} cannot exchange tensors by NCCL (NCCL_DEBUG=INFO in the environment of ray start "
            "shows where it fails; NCCL_SOCKET_IFNAME selects the network, NCCL_IB_DISABLE=1 and NCCL_P2P_DISABLE=1 "
            "switch InfiniBand and direct links off)"
        )
        ranks = [
            probe.meet.remote(rank, len(chosen), address, timeout_s, device)
            for rank, (probe, (_, device)) in enumerate(zip(probes, chosen, strict=True))
        ]
        answers({trouble: ranks}, timeout_s)
    finally:
        for probe in probes:
            ray.kill(probe)


def answers(calls: dict[str, list[Any]], timeout_s: float) -> list[list[Any]]:
    """Return the results of each group of calls. Raises RunError with the group's key if a call fails or is late."""
    references = [reference for group in calls.values() for reference in group]
    ready = set(ray.wait(references, num_returns=len(references), timeout=timeout_s)[0])
    problems, results = [], []
    for trouble, group in calls.items():
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
