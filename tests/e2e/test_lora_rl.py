"""Online RL with an adapter: engines that get it merged, and one that gets it alone, sample from the learner."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.config import OnlineConfig
from rlhf.types import Sampling
from tests.e2e.test_one_loop import Recorder, figures, weights_of
from tests.oracles.straight_line import logprobs_of

NUM_STEPS = 6
LORA = [
    "lora.rank=5",
    "lora.alpha=10",
    "optimizer.lr=1e-2",
    "train.num_minibatches=1",
    f"train.num_steps={NUM_STEPS}",
]
FORMS = ["merged", "alone"]
# More than one block of the KV cache.
LONG = ["sampler.context_tokens=160", "backend.max_tokens_per_microbatch=160"]


@pytest.fixture(scope="module")
def adapter_roles(cluster: None, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]) -> Iterator[Any]:
    """A policy that learns an adapter, and an engine that gets it alone; the KL's reference has no workers."""
    from rlhf.actors.placement import reserved
    from rlhf.stages.online.job import prepare
    from rlhf.stages.online.roles import start_roles
    from rlhf.train.clock import Clock

    job = prepare(compose(*LORA, *LONG, "weight_sync.adapter=alone"))
    with reserved(job.plan, 300) as bundles:
        started = run_async(start_roles(job, bundles, Clock()))
        yield started
        run_async(started.samplers.close())


@pytest.fixture(scope="module")
def untrained(adapter_roles: Any, run_async: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy's state with an adapter that changes nothing yet."""
    folder = tmp_path_factory.mktemp("untrained")
    run_async(adapter_roles.policy.save(folder))
    return folder


@pytest.fixture
def forms(adapter_roles: Any, all_roles: Any, untrained: Path, run_async: Callable[..., Any]) -> dict[str, Any]:
    """The untrained policy with the engines of each form."""
    run_async(adapter_roles.policy.load(untrained))
    return {"merged": dataclasses.replace(adapter_roles, samplers=all_roles.samplers), "alone": adapter_roles}


@dataclasses.dataclass
class Run:
    recorder: Recorder
    job: Any
    stream: Any
    clock: Any


async def train(config: OnlineConfig, roles: Any, *, state: Any = None, next_step: int = 0) -> Run:
    from rlhf.data.order import PromptOrder
    from rlhf.stages.online.job import prepare
    from rlhf.stages.online.roles import lay_out
    from rlhf.stages.online.run import assemble, with_transport
    from rlhf.train.clock import Clock
    from rlhf.train.stop import Stop
    from rlhf.train.stream import RolloutStream

    job = await lay_out(prepare(config), roles)
    stream = RolloutStream(PromptOrder(job.prompts, config.seed), roles.samplers, job.algorithm, config.stream)
    if state is not None:
        stream.restore(state)
    run = Run(Recorder(), job, stream, Clock())
    roles.policy.algorithm = job.algorithm
    await assemble(with_transport(job), roles, stream, run.clock, next_step, [run.recorder], Stop()).fit()
    return run


def tokens_of(run: Run) -> list[list[int]]:
    return [r.token_ids.tolist() for groups in run.recorder.rollouts for group in groups for r in group]


def push(roles: Any, run_async: Callable[..., Any], form: str, version: int) -> None:
    run_async(pushed(roles, form, version))


async def pushed(roles: Any, form: str, version: int) -> None:
    from rlhf.actors.weight_sync import BucketSync
    from rlhf.runtimes.configs import Precision
    from rlhf.runtimes.transport import AdapterForm, Transport, WeightSyncConfig
    from rlhf.train.clock import Clock

    config = WeightSyncConfig(adapter=AdapterForm(form))
    sync = BucketSync(config, Transport.object_store, Precision.fp32, list(range(3, 35)), version, Clock())
    assert await sync.push(roles.policy, roles.samplers) == version


def test_engines_sample_from_the_adapter_after_each_of_six_syncs_in_either_form(
    forms: dict[str, Any], untrained: Path, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    runs = {}
    for form in FORMS:
        run_async(forms[form].policy.load(untrained))
        runs[form] = run_async(train(compose(*LORA, f"weight_sync.adapter={form}"), forms[form]))
        reports = runs[form].recorder.reports
        assert len(reports) == NUM_STEPS
        # One update per step: the learner's logprobs of what the engine sampled, under the weights that it got.
        assert max(report.stats.maxima["rollout_ratio_deviation_max"] for report in reports) < 1e-4
        kl = figures(runs[form].recorder, "kl")
        assert kl[0] < 1e-6 < 1e-3 < kl[-1], "the reference is the base"
        versions = [
            {int(v) for group in groups for r in group for v in r.versions[r.loss_mask]}
            for groups in runs[form].recorder.rollouts
        ]
        assert versions == [{step} for step in range(NUM_STEPS)]
    assert tokens_of(runs["merged"]) == tokens_of(runs["alone"])
    np.testing.assert_allclose(*(figures(runs[form].recorder, "loss") for form in FORMS), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_resumes_bit_for_bit(
    form: str,
    forms: dict[str, Any],
    untrained: Path,
    compose: Callable[..., OnlineConfig],
    run_async: Callable[..., Any],
    tmp_path: Path,
) -> None:
    roles, overrides = forms[form], [*LORA, f"weight_sync.adapter={form}", "optimizer.schedule=constant"]
    config = compose(*overrides, "train.num_steps=4")
    whole = run_async(train(config, roles))
    expected = run_async(weights_of(roles.policy))
    run_async(roles.policy.load(untrained))
    first = run_async(train(compose(*overrides, "train.num_steps=2"), roles))
    run_async(roles.policy.save(tmp_path))
    state = json.loads(json.dumps(first.stream.state()))
    run_async(roles.policy.load(untrained))
    run_async(roles.policy.load(tmp_path))
    resumed = run_async(train(config, roles, state=state, next_step=2))
    assert tokens_of(first) + tokens_of(resumed) == tokens_of(whole)
    assert figures(first.recorder, "loss") + figures(resumed.recorder, "loss") == figures(whole.recorder, "loss")
    weights = run_async(weights_of(roles.policy))
    assert all((weights[name] == expected[name]).all() for name in expected)


def test_the_saved_adapter_and_the_merged_model_load(
    forms: dict[str, Any], compose: Callable[..., OnlineConfig], run_async: Callable[..., Any], tmp_path: Path
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    policy, token_ids = forms["alone"].policy, list(range(3, 35))
    run_async(train(compose(*LORA, "weight_sync.adapter=alone", "train.num_steps=2"), forms["alone"]))
    saved = run_async(policy.save_pretrained(tmp_path, token_ids))
    assert saved.verification.max_difference < 1e-4
    expected = run_async(policy.probe(token_ids))
    loaders = [(AutoModelForCausalLM, tmp_path), (AutoPeftModelForCausalLM, tmp_path / "adapter")]
    for model in (loader.from_pretrained(folder) for loader, folder in loaders):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([token_ids])).logits[0, :-1].log_softmax(-1)
        np.testing.assert_allclose(logits[range(31), token_ids[1:]].numpy(), expected[1:], atol=1e-5)


def test_no_cache_of_the_version_before_is_read(
    forms: dict[str, Any], compose: Callable[..., OnlineConfig], run_async: Callable[..., Any], untrained: Path
) -> None:
    """The keys of vLLM's prefix cache alone, without the reset that follows each sync, tell versions apart."""
    import ray
    import torch
    from transformers import AutoModelForCausalLM

    from rlhf.actors.roles import fetch
    from rlhf.stages.online.job import prepare

    roles, job = forms["alone"], prepare(compose(*LORA, "weight_sync.adapter=alone"))
    (actor,) = roles.samplers.workers.actors
    prompt = dataclasses.replace(job.prompts[0], token_ids=tuple(3 + (7 * i) % 50 for i in range(140)))
    run_async(train(compose(*LORA, "weight_sync.adapter=alone", "train.num_steps=2"), roles))

    def keep_cache(worker: Any) -> int:
        engine = worker.engine.thread.engine
        engine.reset_prefix_cache = lambda **_: True
        return engine.vllm_config.cache_config.block_size

    def name_the_version_before(worker: Any) -> None:
        worker.engine.thread.adapter = worker.old_adapter

    def remember(worker: Any) -> None:
        worker.old_adapter = worker.engine.thread.adapter

    def reset_again(worker: Any) -> None:
        del worker.engine.thread.engine.reset_prefix_cache

    def differences() -> float:
        base = AutoModelForCausalLM.from_pretrained(job.config.model, dtype=torch.float32)
        banned = list(job.distribution.banned_token_ids)
        group = run_async(roles.samplers.collect(prompt, 0, [Sampling(temperature=1.0, max_tokens=6)] * 2))
        return max(
            np.abs(r.logprobs[r.loss_mask] - logprobs_of(base, r, banned).detach().numpy()).max()
            for r in fetch([group.rollouts])[0]
        )

    push(roles, run_async, "alone", 11)
    trained = differences()
    block_size = ray.get(actor.__ray_call__.remote(keep_cache))
    ray.get(actor.__ray_call__.remote(remember))
    try:
        assert block_size < len(prompt.token_ids)
        run_async(roles.policy.load(untrained))
        push(roles, run_async, "alone", 12)
        assert differences() < 1e-4 < 1e-2 < trained
        ray.get(actor.__ray_call__.remote(name_the_version_before))
        assert differences() > 1e-3, "under the old name the old cache is read"
    finally:
        ray.get(actor.__ray_call__.remote(reset_again))


def test_rollouts_under_way_go_on_with_the_new_adapter(
    forms: dict[str, Any], compose: Callable[..., OnlineConfig], run_async: Callable[..., Any], untrained: Path
) -> None:
    """Each token has the logprob of the version that it carries, given all tokens before it."""
    import asyncio

    import torch
    from transformers import AutoModelForCausalLM

    from rlhf.actors.roles import fetch
    from rlhf.stages.online.job import prepare

    roles, job = forms["alone"], prepare(compose(*LORA, "weight_sync.adapter=alone"))
    run_async(train(compose(*LORA, "weight_sync.adapter=alone", "train.num_steps=2"), roles))
    models = {v: AutoModelForCausalLM.from_pretrained(job.config.model, dtype=torch.float32) for v in (31, 32)}
    weights = run_async(weights_of(roles.policy))
    models[31].load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()}, strict=False)
    push(roles, run_async, "alone", 31)
    run_async(roles.policy.load(untrained))

    (actor,) = roles.samplers.workers.actors

    def has_sampled(worker: Any) -> bool:
        scheduler = worker.engine.thread.engine.engine_core.engine_core.scheduler
        return any(request.num_output_tokens > 4 for request in scheduler.running)

    async def sample() -> Any:
        requests = [Sampling(temperature=1.0, max_tokens=120)] * 48
        group = asyncio.create_task(roles.samplers.collect(job.prompts[0], 0, requests))
        while not await actor.__ray_call__.remote(has_sampled):
            await asyncio.sleep(0.01)
        await pushed(roles, "alone", 32)
        return await group

    rollouts = fetch([run_async(sample()).rollouts])[0]
    banned = list(job.distribution.banned_token_ids)
    assert {int(v) for r in rollouts for v in r.versions[r.loss_mask]} == {31, 32}
    for rollout in rollouts:
        chosen = rollout.versions[rollout.loss_mask]
        for version, model in models.items():
            expected = logprobs_of(model, rollout, banned).detach().numpy()
            of_version = chosen == version
            np.testing.assert_allclose(rollout.logprobs[rollout.loss_mask][of_version], expected[of_version], atol=1e-4)


def test_nothing_is_left_in_node_memory(forms: dict[str, Any], run_async: Callable[..., Any]) -> None:
    push(forms["alone"], run_async, "alone", 21)
    assert not list(Path("/dev/shm").glob("rlhf-adapter-*"))
