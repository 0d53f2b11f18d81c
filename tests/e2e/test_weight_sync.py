"""Weights are what they say: after a load the engine samples from the learner's distribution."""

import asyncio
import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.config import OnlineConfig
from rlhf.types import Completion, RunError, Sampling
from tests.oracles.engine import assert_sampled_from, buckets_of, perturbed
from tests.oracles.straight_line import logprobs_of

TEMPERATURE = 0.7


class EngineActor:
    """An engine and nothing else."""

    def __init__(self, model: str, banned: list[int]) -> None:
        from rlhf.runtimes.configs import Precision, SamplerConfig
        from rlhf.runtimes.vllm_sampler import VLLMSampler

        config = SamplerConfig(context_tokens=64, kv_cache_bytes=32 << 20, accelerator_memory_fraction=0.1, eager=True)
        self.engine = VLLMSampler(model, config, Precision.fp32, banned_token_ids=banned, stop_token_ids=[1])

    async def generate(self, token_ids: list[int], sampling: Sampling) -> Completion:
        return await self.engine.generate(token_ids, sampling)

    async def load(self, buckets: list[Any], version: int) -> None:
        await self.engine.load_begin()
        for bucket in buckets:
            await self.engine.load(bucket)
        await self.engine.load_finish(version)

    async def load_after_broken(self, buckets: list[Any], others: list[Any], version: int) -> None:
        """Load `buckets` after a sync of `others` that lost its sender, and after one that lost a bucket."""
        await self.engine.load_begin()
        await self.engine.load(others[0])
        await self.engine.load_begin()
        await self.engine.load(others[0])
        with pytest.raises(RunError, match="arrived with checksum"):
            await self.engine.load(dataclasses.replace(others[1], checksum="another"))
        await self.load(buckets, version)

    async def load_and_stop(self, buckets: list[Any]) -> None:
        """Load a part of a version that never ends, as when its sender dies."""
        await self.engine.load_begin()
        for bucket in buckets:
            await self.engine.load(bucket)

    async def load_one_by_one(self, buckets: list[Any], version: int) -> int:
        """The most buckets whose bytes were held at once, each being given up as soon as it was loaded."""
        sent: list[weakref.ref[np.ndarray]] = []
        most = 0
        await self.engine.load_begin()
        while buckets:
            bucket = buckets.pop(0)
            # A copy whose life is this object's: what the test sent is in the object store.
            bucket = dataclasses.replace(bucket, buffer=bucket.buffer.copy())
            sent.append(weakref.ref(bucket.buffer))
            await self.engine.load(bucket)
            del bucket
            most = max(most, sum(buffer() is not None for buffer in sent))
        await self.engine.load_finish(version)
        assert all(buffer() is None for buffer in sent)
        return most

    async def logprobs(self, token_ids: list[int]) -> np.ndarray:
        return await self.engine.logprobs(token_ids)


@pytest.fixture(scope="module", params=["tied", "untied"])
def engine(request: pytest.FixtureRequest, cluster: None, models: dict[str, Path]) -> Iterator[tuple[Any, str]]:
    import ray

    model = str(models[request.param])
    actor = ray.remote(num_cpus=1)(EngineActor).remote(model, [0, 2])
    yield actor, model
    ray.kill(actor)


def test_engine_samples_from_the_loaded_weights(engine: tuple[Any, str]) -> None:
    import ray

    actor, model = engine
    prompts = [[3 + i, 13, 4 + i % 7, 14] for i in range(12)]
    for version in (1, 2):
        learner = perturbed(model, 0.02 * version)
        buckets = buckets_of(learner, 60_000)
        assert len(buckets) > 2
        ray.get(actor.load.remote(buckets, version))
        sampling = [Sampling(temperature=TEMPERATURE, max_tokens=24, seed=i) for i in range(len(prompts))]
        completions = ray.get([actor.generate.remote(p, s) for p, s in zip(prompts, sampling, strict=True)])
        for prompt, completion in zip(prompts, completions, strict=True):
            assert set(completion.versions.tolist()) == {version}
            assert_sampled_from(learner, prompt, completion, temperature=TEMPERATURE, banned=[0, 2])


def test_a_sync_that_lost_its_sender_is_begun_again(engine: tuple[Any, str]) -> None:
    import ray

    actor, model = engine
    learner, prompt = perturbed(model, 0.03), [5, 13, 7, 14]
    buckets, others = buckets_of(learner, 60_000), buckets_of(perturbed(model, 0.5), 50_000)
    ray.get(actor.load_after_broken.remote(buckets, others, 3))
    completion = ray.get(actor.generate.remote(prompt, Sampling(temperature=TEMPERATURE, max_tokens=24, seed=1)))
    assert set(completion.versions.tolist()) == {3}
    assert_sampled_from(learner, prompt, completion, temperature=TEMPERATURE, banned=[0, 2])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_version_replaces_one_that_was_begun_and_not_finished(engine: tuple[Any, str], share: float) -> None:
    import ray

    actor, model = engine
    abandoned, learner = perturbed(model, 0.1), perturbed(model, 0.03)
    buckets = buckets_of(abandoned, 60_000)
    ray.get(actor.load_and_stop.remote(buckets[: int(share * len(buckets))]))
    ray.get(actor.load.remote(buckets_of(learner, 60_000), 5))
    completion = ray.get(actor.generate.remote([5, 6, 7], Sampling(temperature=TEMPERATURE, max_tokens=24, seed=1)))
    assert set(completion.versions.tolist()) == {5}
    assert_sampled_from(learner, [5, 6, 7], completion, temperature=TEMPERATURE, banned=[0, 2])


def test_a_rollout_does_not_depend_on_what_is_sampled_beside_it(engine: tuple[Any, str]) -> None:
    """More prompt tokens at once than an engine step takes: computed in parts, seeds would kill the engine."""
    import ray

    actor, _ = engine
    prompts = [[3 + (i * j) % 50 for j in range(40)] for i in range(150)]
    sampling = [Sampling(temperature=TEMPERATURE, max_tokens=6, seed=i) for i in range(len(prompts))]
    together = ray.get([actor.generate.remote(p, s) for p, s in zip(prompts, sampling, strict=True)])
    for i in (0, 70, 149):
        alone = ray.get(actor.generate.remote(prompts[i], sampling[i]))
        assert alone.token_ids.tolist() == together[i].token_ids.tolist()
        assert alone.logprobs.tolist() == together[i].logprobs.tolist()


def test_an_engine_holds_no_bucket_longer_than_its_layers_need(engine: tuple[Any, str]) -> None:
    """Parameters of a layer that is not complete are views; at 32B all buckets at once would be 65 GB beside it."""
    import ray

    actor, model = engine
    buckets = buckets_of(perturbed(model, 0.02), 60_000)
    assert len(buckets) > 4
    assert ray.get(actor.load_one_by_one.remote(buckets, 3)) <= 2


def test_a_corrupt_bucket_is_refused(engine: tuple[Any, str]) -> None:
    import ray

    from rlhf.runtimes.buckets import pack

    actor, model = engine
    bucket = pack(list(perturbed(model, 0.02).named_parameters()))
    flipped = bucket.buffer.copy()
    flipped[1000] ^= 1
    with pytest.raises(RunError, match="arrived with checksum"):
        ray.get(actor.load.remote([dataclasses.replace(bucket, buffer=flipped)], 3))


def test_the_probe_tells_an_engine_of_other_weights(
    roles: Any, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    import ray

    from rlhf.actors.weight_sync import BucketSync
    from rlhf.runtimes.buckets import pack
    from rlhf.runtimes.configs import Precision
    from rlhf.runtimes.transport import Transport, WeightSyncConfig
    from rlhf.train.clock import Clock

    sync = BucketSync(WeightSyncConfig(), Transport.object_store, Precision.fp32, list(range(3, 35)), 7, Clock())

    async def scenario() -> None:
        assert await sync.push(roles.policy, roles.samplers) == 7
        other = pack(list(perturbed(compose().model, 0.02).named_parameters()))
        await roles.samplers.load_begin()
        await roles.samplers.load([ray.put(other)])
        await roles.samplers.load_finish(8)
        expected = await roles.policy.probe(sync.probe)
        with pytest.raises(RunError, match="does not hold the policy's weights"):
            await sync.verify(expected, roles.samplers, 8)
        assert await sync.push(roles.policy, roles.samplers) == 8

    run_async(scenario())


def test_a_broadcast_between_processes_carries_the_same_weights(roles: Any, run_async: Callable[..., Any]) -> None:
    """gloo: bytes go from rank 0 to the engine directly, checksummed on receipt and probed like any others."""
    from rlhf.actors.weight_sync import BucketSync
    from rlhf.runtimes.configs import Precision
    from rlhf.runtimes.transport import Link, Transport, WeightSyncConfig
    from rlhf.train.clock import Clock

    config = WeightSyncConfig(bucket_bytes=50_000, timeout_s=300)
    sync = BucketSync(config, Transport.gloo, Precision.fp32, list(range(3, 35)), 21, Clock())

    async def scenario() -> None:
        try:
            assert await sync.push(roles.policy, roles.samplers) == 21
            assert await sync.push(roles.policy, roles.samplers) == 22
        finally:
            here = Link(transport=Transport.object_store, host="", port=0, size=0, timeout_s=0)
            await asyncio.gather(roles.policy.connect(here), roles.samplers.connect(here))

    run_async(scenario())


@pytest.mark.parametrize("transport", ["nccl", "cuda_ipc"])
def test_a_transport_between_gpus_is_refused_without_one(transport: str) -> None:
    from rlhf.runtimes.carriers import make_carrier
    from rlhf.runtimes.transport import Link, Transport
    from rlhf.types import InputError

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    link = Link(transport=Transport(transport), host="127.0.0.1", port=0, size=1, timeout_s=5)
    with pytest.raises(InputError, match=f"weight_sync.transport={transport}: there is no GPU here"):
        make_carrier(link, rank=0)


def test_a_sync_that_takes_too_long_is_named(run_async: Callable[..., Any]) -> None:
    from rlhf.actors.weight_sync import BucketSync
    from rlhf.runtimes.configs import Precision
    from rlhf.runtimes.transport import Transport, WeightSyncConfig
    from rlhf.train.clock import Clock

    class LivingWorkers:
        async def death_in_the_run(self) -> None:
            """Nobody has died."""

    class StuckPolicy:
        workers = LivingWorkers()

        def at_work(self) -> Any:
            return contextlib.nullcontext()

        async def weights(self, bucket_bytes: int, *, adapter_alone: bool, from_every_rank: bool) -> Any:
            await asyncio.sleep(60)
            yield

    class ReadySamplers:
        members = frozenset({(0, 1)})

        def choose_receivers(self, ranks: None) -> None:
            """The only engine."""

        async def load_begin(self) -> None:
            pass

    sync = BucketSync(WeightSyncConfig(timeout_s=1.0), Transport.object_store, Precision.fp32, [3, 4], 9, Clock())

    async def scenario() -> None:
        with pytest.raises(RunError, match="version 9 was not on all engines within"):
            await sync.push(StuckPolicy(), ReadySamplers())  # type: ignore[arg-type]

    run_async(scenario())


def test_oracle_and_engine_agree_on_whole_rollouts(
    roles: Any, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    """Group sampling: as many distinct rollouts as asked, repeatable, each with the learner's logprobs."""
    import ray
    from transformers import AutoModelForCausalLM

    from rlhf.actors.roles import fetch
    from rlhf.runtimes.buckets import pack
    from rlhf.stages.online.job import prepare

    job = prepare(compose())
    model = AutoModelForCausalLM.from_pretrained(job.config.model, dtype=torch.float32)

    async def sample() -> list[Any]:
        await roles.samplers.load_begin()
        await roles.samplers.load([ray.put(pack(list(model.named_parameters())))])
        await roles.samplers.load_finish(0)
        groups = [await roles.samplers.collect(job.prompts[0], 5, job.algorithm.requests(job.prompts[0])) for _ in "ab"]
        return fetch([group.rollouts for group in groups])

    first, again = run_async(sample())
    assert [r.token_ids.tolist() for r in first] == [r.token_ids.tolist() for r in again]
    assert len({tuple(r.token_ids) for r in first}) == len(first) == 4
    for rollout in first:
        expected = logprobs_of(model, rollout, list(job.distribution.banned_token_ids)).detach().numpy()
        np.testing.assert_allclose(rollout.logprobs[rollout.loss_mask], expected, atol=1e-5)
