"""What a run refuses before Ray starts, each in one sentence with the key, the value and the remedy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.models.tiny import fit_tiny_reward_model
from rlhf.stages.online.dry_run import try_algorithm
from rlhf.stages.online.job import transport_of
from rlhf.stages.online.method import correction_line, method_lines
from rlhf.stages.online.results import probe_sequence
from rlhf.types import InputError
from tests.conftest import ALPHABET
from tests.unit.stages.online.conftest import PPO


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reward models by name: of the policy's vocabulary, of another, and for shorter texts."""
    root = tmp_path_factory.mktemp("judges")
    for name, alphabet, context in (("same", ALPHABET, 64), ("other", "0123", 64), ("short", ALPHABET, 32)):
        fit_tiny_reward_model(
            root / name, {"1": 1.0}, alphabet=alphabet, hidden_size=64, context_tokens=context, num_steps=1
        )
    return {name: root / name for name in ("same", "other", "short")}


def test_ppo_has_its_four_roles_where_they_are_placed(job, judges):
    reward = f"reward.model={judges['same']}"
    plan = job(*PPO, reward, "placement.policy=2", "placement.critic=2", "placement.reward=2").plan
    assert {role.role: role.num_workers for role in plan.roles} == {
        "policy": 2, "reference": 1, "critic": 2, "reward": 2, "sampler": 1,
    }  # fmt: skip
    shared = job(*PPO, reward, "placement.colocate=[[policy,critic],[reference,reward]]").plan
    assert [group.name for group in shared.groups] == ["policy+critic", "reference+reward", "sampler"]
    assert [role.role for role in job("algorithm=grpo").plan.roles] == ["policy", "sampler"]


OWN = """
from dataclasses import dataclass
from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.policy_gradient import PolicyGradient

@dataclass(kw_only=True, slots=True)
class Config(AlgorithmConfig):
    def build(self, sampling):
        return {result}

class Unfinished(PolicyGradient):
    pass
"""


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ("Unfinished(self, sampling)", r"whose build raises TypeError: Can't instantiate abstract class Unfinished .*"
         "group_advantages'?: correct it"),
        ("1 / 0", "whose build raises ZeroDivisionError: division by zero: correct it"),
        ("None", "whose build returns a NoneType without adapt, admits, assign_credit, credit_columns, critic_loss, "),
    ],
)  # fmt: skip
def test_a_class_that_builds_no_algorithm_is_refused(job, tmp_path, result, sentence):
    (tmp_path / "own.py").write_text(OWN.format(result=result))
    with pytest.raises(InputError, match=f"^algorithm has '{tmp_path}/own.py:Config', {sentence}"):
        job(f"algorithm={tmp_path}/own.py:Config")


def folder_with(models: dict[str, Path], target: Path, **settings: Any) -> Path:
    shutil.copytree(models["tied"], target)
    raw = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**raw, **settings}))
    return target


TOGETHER = "placement.colocate=[[policy,sampler]]"


@pytest.mark.parametrize(
    ("overrides", "on_gpus", "transport"),
    [
        ([], False, "object_store"),
        ([TOGETHER], False, "object_store"),
        ([], True, "nccl"),
        ([TOGETHER], True, "cuda_ipc"),
        ([TOGETHER, "sampler.num_engines=2"], True, "object_store"),
        ([TOGETHER, "sampler.num_engines=2", "placement.policy=2"], True, "cuda_ipc"),
        (["weight_sync.transport=gloo"], True, "gloo"),
    ],
)
def test_the_fastest_transport_is_chosen_that_placement_and_machines_allow(job, overrides, on_gpus, transport):
    prepared = job("algorithm=grpo", *overrides)
    assert transport_of(prepared.config, prepared.plan, on_gpus=on_gpus) == transport


def test_a_transport_between_gpus_needs_some(job):
    prepared = job("algorithm=grpo", "weight_sync.transport=nccl")
    with pytest.raises(InputError, match=r"^weight_sync.transport=nccl: the cluster has no GPU; set it to gloo or"):
        transport_of(prepared.config, prepared.plan, on_gpus=False)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["placement.critic=2"], "placement.critic=2, critic.model=None: GRPO has no critic"),
        (["critic.model=m"], "placement.critic=None, critic.model=m: GRPO has no critic; leave both null, or use"),
        ([*PPO, "placement.critic=0"], "placement.critic=0: PPO learns a critic; give it at least 1"),
        ([*PPO, "critic.model=nowhere"], "model 'nowhere': no config.json there"),
        ([*PPO, "placement.colocate=[[policy,judge]]"], "placement.colocate names 'judge', which is no role"),
        ([*PPO, "placement.colocate=[[policy],[policy]]"], "placement.colocate names policy twice"),
        (["placement.reward=1"], "placement.reward=1: there is no reward model; set reward.model to its folder"),
        (["placement.policy=0"], "placement: policy has 0 workers"),
        (
            ["placement.policy=9", "placement.num_nodes=1", "placement.accelerators_per_node=8"],
            "placement: 10 accelerators are needed (policy 9 x 1, sampler 1 x 1) and the nodes have 8",
        ),
        (["placement.num_nodes=1"], "set both, or neither"),
        (["sampler.tensor_parallel_size=3"], "sampler.tensor_parallel_size=3: the 2 attention heads of model"),
        (
            ["placement.colocate=[[policy,sampler]]", "backend.zero_stage=2"],
            "placement.colocate has policy+sampler, backend.zero_stage=2: a learner that shares accelerators",
        ),
        (
            ["placement.colocate=[[policy,sampler]]", "stream.max_staleness=1"],
            "placement.colocate has policy+sampler, stream.max_staleness=1: engines that take turns cannot",
        ),
        (["weight_sync.transport=cuda_ipc"], "weight_sync.transport=cuda_ipc, placement.colocate=[]: engines map"),
        (
            ["weight_sync.transport=nccl", TOGETHER],
            "weight_sync.transport=nccl, placement.colocate=[['policy', 'sampler']]: NCCL joins no two processes",
        ),
        (
            ["weight_sync.transport=fax"],
            "weight_sync.transport=fax: choose one of object_store, gloo, nccl, cuda_ipc",
        ),
        (
            ["weight_sync.transport=mine.py:Carrier"],
            "weight_sync.transport has 'mine.py:Carrier', but there is",
        ),
        (["reward.functions=[]"], "reward.functions is empty: name at least one, such as exact, or set reward.model"),
        (["environment=multi_turn"], "environment=multi_turn: there is no environment of this name; use single_turn, "),
        (["+environment_options.turns=2"], "environment single_turn cannot be called as single_turn(prompt, sampler, "),
        (["validation.part=exakt"], "validation.part=exakt: the reward has no such part; known are exact"),
        (["reward.model=nowhere"], "model 'nowhere': no config.json there"),
    ],
)
def test_placements_and_roles_that_do_not_fit(job, overrides, sentence):
    with pytest.raises(InputError) as caught:
        job("algorithm=grpo", *overrides)
    assert sentence in str(caught.value)


def test_reward_models_that_do_not_fit_the_run(job, judges, models):
    with pytest.raises(InputError, match="its architecture is Qwen3ForCausalLM, which has no head for a score"):
        job(f"reward.model={models['tied']}")
    with pytest.raises(InputError, match="its vocabulary is not that of the policy"):
        job(f"reward.model={judges['other']}")
    with pytest.raises(InputError, match=r"it was made for 32 tokens, a rollout may have sampler.context_tokens=64"):
        job(f"reward.model={judges['short']}")
    assert job(f"reward.model={judges['other']}", "reward.model_input=text").plan.has("reward")


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
READS_TOOLS = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}"


def test_a_reward_model_of_text_reads_a_prompts_tools_or_the_run_is_refused(job, judges, models, encoder, tmp_path):
    rows = tmp_path / "tools.jsonl"
    rows.write_text(json.dumps({"prompt": "1+1=", "answer": "2", "tools": TOOLS}) + "\n")
    folders = {}
    for name, source in (("policy", models["tied"]), ("reads", judges["same"])):
        folders[name] = Path(shutil.copytree(source, tmp_path / name))
        template = folders[name] / "chat_template.jinja"
        template.write_text(READS_TOOLS + template.read_text())
    text = [f"model={folders['policy']}", f"data.path={rows}", "reward.model_input=text"]
    with pytest.raises(
        InputError, match=f":1: the row has tools, which the chat template of {judges['same']} leaves out"
    ):
        job(*text, f"reward.model={judges['same']}")
    with pytest.raises(InputError, match=f":1: the row has tools, and {encoder} has no chat template that reads them"):
        job(*text, f"reward.model={encoder}")
    with pytest.raises(InputError, match=f"the chat template of {judges['other']} leaves out: set tools_key to null"):
        job(*text, f"reward.model={folders['reads']}", f"reward.ensemble=[{judges['other']}]")
    assert job(*text, f"reward.model={folders['reads']}").prompts[0].tools == TOOLS
    # Token ids hold the tools already.
    assert job(*text[:2], f"reward.model={judges['same']}").prompts[0].tools == TOOLS
    assert job(*text, f"reward.model={judges['same']}", "data.tools_key=null").prompts[0].tools is None


def test_a_mixture_of_experts_is_refused_with_the_reason(job, models, tmp_path):
    path = folder_with(models, tmp_path / "moe", num_experts=128)
    with pytest.raises(InputError, match=r"it is a mixture of experts \(num_experts=128\), whose ranks hang"):
        job(f"model={path}")
    with pytest.raises(InputError, match="it is a mixture of experts"):
        job(*PPO, f"critic.model={path}")


def test_a_critic_of_another_vocabulary_is_refused(job, judges):
    with pytest.raises(InputError, match=r"critic.model=.*: its vocabulary is not that of the policy"):
        job(*PPO, f"critic.model={judges['other']}")
    assert job(*PPO, f"critic.model={judges['same']}").plan.has("critic"), "a reward model is a critic to begin with"


def test_the_probe_is_the_runs_first_prompts_as_they_are_rendered(job):
    """Real text, not random tokens, on which rounding alone moves logprobs several times as far."""
    prepared = job("algorithm=grpo", "weight_sync.probe_tokens=50")
    rendered = [token for prompt in prepared.prompts for token in prompt.token_ids]
    probe = probe_sequence(prepared)
    assert len(probe) == 50
    assert probe[: len(rendered)] == rendered[:50]
    assert prepared.tokenizer.decode(probe).startswith("0+1=1+1=2+1=3+1=0+1=")
    assert probe == probe_sequence(job("algorithm=grpo", "weight_sync.probe_tokens=50", "seed=7"))
    # Few prompts come round again, and the engine's context holds the probe with the token that vLLM samples.
    long = probe_sequence(job("algorithm=grpo", "weight_sync.probe_tokens=500"))
    assert len(long) == 63
    assert long[len(rendered) :] == (rendered * 3)[: 63 - len(rendered)]


@pytest.mark.parametrize(
    ("overrides", "kind", "line"),
    [
        (["backend.precision=fp32"], "off", "off, rollouts are on-policy in fp32 (algorithm.correction.kind=auto)"),
        (
            ["backend.precision=bf16"],
            "token_truncate",
            "token_truncate, weights at most 2, because of backend.precision=bf16 (algorithm.correction.kind=auto)",
        ),
        (
            ["backend.precision=bf16", "stream.max_staleness=3", "algorithm.correction.high=4"],
            "token_truncate",
            "weights at most 4, because of stream.max_staleness=3 and backend.precision=bf16",
        ),
        (
            ["backend.precision=fp32", "algorithm.correction.kind=sequence_mask"],
            "sequence_mask",
            "sequence_mask, ratios from 0.5 to 2 are kept (algorithm.correction.kind=sequence_mask)",
        ),
        (["backend.precision=bf16", "algorithm.correction.kind=off"], "off", "off, as configured"),
        (
            ["backend.precision=fp32", "algorithm.correction.kind=off", "stream.max_staleness=1"],
            "off",
            "warning: algorithm.correction.kind=off with stream.max_staleness=1: the gradient takes stale tokens",
        ),
    ],
)
def test_the_run_chooses_the_correction_and_says_why(job, overrides, kind, line):
    prepared = job("algorithm=grpo", *overrides)
    assert prepared.algorithm.loss.config.correction.kind.value == kind
    assert line in correction_line(prepared.config)
    given = [word for word in overrides if "kind" in word] or ["algorithm.correction.kind=auto"]
    assert prepared.config.algorithm.correction.kind.value == given[0].partition("=")[2]  # as the run folder records it


def test_a_part_that_dynamic_sampling_compares_is_one_of_the_reward(job):
    with pytest.raises(InputError, match=r"^algorithm.dynamic_sampling_part=none: the reward has no such part; known "):
        job("algorithm=dapo", "algorithm.dynamic_sampling_part=none")
    assert job("algorithm=dapo", "algorithm.dynamic_sampling_part=exact").algorithm.config.dynamic_sampling


@pytest.mark.parametrize("name", ["cispo", "dapo", "dr_grpo", "gspo", "reinforce_pp", "reinforce_pp_baseline", "remax",
                                  "rloo"])  # fmt: skip
def test_every_online_method_prepares_and_is_tried(job, name):
    prepared = job(f"algorithm={name}", "algorithm.kl_coef=0.1")
    assert prepared.plan.has("reference")
    try_algorithm(prepared)


def test_a_run_warns_of_long_completions_that_are_punished_twice(job):
    def warnings(*overrides: str) -> list[str]:
        return method_lines(job("algorithm=dapo", *overrides).config)[1:]

    (warning,) = warnings("reward.shaping.overlong_buffer=2")
    assert warning.startswith(
        "warning: algorithm.overlong_buffer=0.2 and reward.shaping.overlong_buffer=2 punish a long"
    )
    assert not warnings()
    assert not warnings("reward.shaping.overlong_buffer=2", "algorithm.overlong_buffer=0")
