"""Runtime configurations that cannot work are refused where they are made."""

import re

import pytest

from rlhf.runtimes.configs import BackendConfig
from rlhf.types import InputError


@pytest.mark.parametrize("stage", [0, 4, -1])
def test_zero_stages(stage):
    with pytest.raises(InputError, match=f"zero_stage={stage}: DeepSpeed learners run ZeRO 1, 2 or 3$"):
        BackendConfig(zero_stage=stage)
    assert [BackendConfig(zero_stage=stage).zero_stage for stage in (1, 2, 3)] == [1, 2, 3]


def test_a_microbatch_of_one_token_predicts_nothing():
    sentence = "max_tokens_per_microbatch=1: set at least the longest sequence"
    with pytest.raises(InputError, match=re.escape(sentence)):
        BackendConfig(max_tokens_per_microbatch=1)
