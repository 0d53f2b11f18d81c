"""The refusals before any download: one sentence each, and none on a machine that fits."""

import sys
from pathlib import Path

import pytest

from requirements import check_platform

sys.path.append(str(Path(check_platform.__file__).parent))  # where it stands first when a script of that folder runs
from requirements import check_gpu

AVX2 = "processor : 0\nflags\t\t: fpu sse4_2 avx avx2 fma\n\nprocessor : 1\nflags\t\t: fpu sse4_2 avx avx2 fma\n"

DRIVER = "| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    CUDA Version: 13.0     |"


def test_the_supported_machine_is_not_refused():
    assert check_platform.system_refusal("Linux") is None
    assert check_platform.machine_refusal("x86_64") is None
    assert check_platform.python_refusal((3, 11)) is None
    assert check_platform.cpu_refusal(AVX2) is None
    assert check_platform.disk_refusal(8 * 10**9, "here") is None
    assert check_gpu.python_refusal((3, 12)) is None
    assert check_gpu.driver_refusal(DRIVER) is None


@pytest.mark.parametrize(
    ("sentence", "names"),
    [
        (check_platform.system_refusal("Darwin"), "Darwin"),
        (check_platform.machine_refusal("aarch64"), "aarch64"),
        (check_platform.python_refusal((3, 12)), "3.12"),
        (check_platform.python_refusal((3, 10)), "3.10"),
        (check_platform.cpu_refusal(AVX2.replace("avx2 ", "")), "AVX2"),
        (check_platform.cpu_refusal("processor : 0\nflags : avx2\nprocessor : 1\nflags : avx\n"), "AVX2"),
        (check_platform.cpu_refusal(""), "AVX2"),
        (check_platform.disk_refusal(7_900_000_000, "the folder"), "the folder has 7.9 GB"),
        (check_gpu.python_refusal((3, 11)), "3.11"),
        (check_gpu.driver_refusal(None), "nvidia-smi"),
        (check_gpu.driver_refusal("no such line"), "nvidia-smi"),
        (check_gpu.driver_refusal(DRIVER.replace("13.0 ", "12.8 ")), "CUDA 12.8"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_value(sentence, names):
    assert names in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert "\n" not in sentence
