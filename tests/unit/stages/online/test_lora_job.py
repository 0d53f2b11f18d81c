"""What a run with adapters plans, and refuses before Ray starts."""

import pytest

from rlhf.stages.online.engines import sampler_spec
from rlhf.stages.online.job import transport_of
from rlhf.types import InputError
from tests.unit.stages.online.conftest import PPO


def test_a_policy_with_an_adapter_is_its_own_reference(job):
    assert [role.role for role in job(*PPO).plan.roles] == ["policy", "reference", "critic", "sampler"]
    assert [role.role for role in job(*PPO, "lora.rank=4").plan.roles] == ["policy", "critic", "sampler"]
    shared = job("algorithm.kl_coef=0.1", "lora.rank=4", "placement.colocate=[[policy,reference]]").plan
    assert [group.name for group in shared.groups] == ["policy", "sampler"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rank=4", "lora.target_modules=[query]"], r"lora\.target_modules has 'query', but no layer of model"),
        (["lora.rank=4", "lora.target_modules=[embed_tokens]"], r"lora\.target_modules has 'embed_tokens': in model"),
        (["critic.lora.rank=4"], r"critic\.lora\.rank=4: GRPO has no critic; leave it null"),
        (
            [*PPO, "critic.lora.rank=4", "critic.lora.target_modules=[query]"],
            r"critic\.lora\.target_modules has 'query', but no layer of model",
        ),
        (["lora.rank=4", "lora.quantize=true"], r"lora\.quantize=true with backend\.zero_stage=3: .*zero_stage=2"),
        (
            ["lora.rank=4", "lora.quantize=true", "backend.zero_stage=2", "placement.colocate=[[policy,sampler]]"],
            r"placement\.colocate has policy\+sampler, whose policy has 4-bit weights: .*set quantize=false",
        ),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_trained_are_refused(job, overrides, message):
    with pytest.raises(InputError, match=message):
        job(*overrides)


ALONE = ["lora.rank=4", "weight_sync.adapter=alone"]


def test_an_adapter_alone_travels_through_the_object_store(job):
    prepared = job(*ALONE)
    assert transport_of(prepared.config, prepared.plan, on_gpus=True) == "object_store"
    assert sampler_spec(prepared).lora == prepared.config.lora
    merged = job("lora.rank=4")
    assert transport_of(merged.config, merged.plan, on_gpus=True) == "nccl"
    assert sampler_spec(merged).lora is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["weight_sync.adapter=alone"], r"lora\.rank=null: there is no adapter to send; set lora\.rank, or"),
        ([*ALONE, "lora.rank=513"], r"lora\.rank=513: the engine's largest rank is 512; lower it"),
        ([*ALONE, "lora.target_modules=[q_proj,lm_head]"], r"lora\.target_modules has lm_head: "),
        (
            [*ALONE, "lora.quantize=true", "backend.zero_stage=2"],
            r"lora\.quantize=true: engines hold the full-prec",
        ),
        ([*ALONE, "weight_sync.transport=gloo"], r"weight_sync\.transport=gloo: an adapter travels through the object"),
    ],
)
def test_an_adapter_that_cannot_travel_alone_is_refused(job, overrides, message):
    with pytest.raises(InputError, match=rf"^weight_sync\.adapter=alone, {message}.*set weight_sync\.adapter=merged$"):
        job(*overrides)
