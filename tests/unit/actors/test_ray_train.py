"""How offline ranks are launched: decided by what the cluster has, not by what the driver's machine sees."""

import pytest

from rlhf.actors.nodes import names_a_kind
from rlhf.actors.ray_train import launch_configs


def test_ranks_get_an_accelerator_each_and_nccl_where_the_cluster_has_real_ones():
    torch_config, scaling = launch_configs(True, 8, 1800.0, num_cpus=12)
    assert (torch_config.backend, torch_config.timeout_s) == ("nccl", 1800)
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == (8, True, {"CPU": 12, "GPU": 1})


def test_ranks_on_cpu_reserve_no_accelerator_and_meet_by_gloo():
    torch_config, scaling = launch_configs(False, 2, 60.0, num_cpus=1)
    assert torch_config.backend == "gloo"
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == (2, False, {"CPU": 1})


@pytest.mark.parametrize(
    ("resources", "real"),
    [
        ({"CPU": 8.0, "GPU": 8.0, "accelerator_type:H100": 1.0}, True),
        ({"CPU": 8.0, "GPU": 8.0, "node:10.0.0.1": 1.0}, False),
        ({}, False),
    ],
)
def test_pretended_accelerators_have_no_kind(resources, real):
    assert names_a_kind(resources) is real
