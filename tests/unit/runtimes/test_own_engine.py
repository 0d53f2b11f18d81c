"""The engine on the page on extending keeps what `Engine` demands; what is no engine is named."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from rlhf.runtimes.configs import Precision, SamplerConfig
from rlhf.runtimes.engines import find_engine, make_engine
from rlhf.runtimes.protocols import Engine
from rlhf.types import Completion, InputError, RunError, Sampling
from tests.oracles.engine import assert_sampled_from, buckets_of, perturbed

PAGE = Path(__file__).parents[3] / "docs/extending.md"
BANNED, STOPS = [0, 2], [1]
TEMPERATURE = 0.7
PROMPTS = [[3 + i, 13, 4 + i % 7, 14] for i in range(4)]
OWN = """
class Broken:
    def __init__(self, *arguments, **settings):
        raise OSError("no such library")


class Mute:
    def __init__(self, *arguments, **settings):
        pass
"""


@pytest.fixture(scope="module", params=["tied", "untied"])
def model(request: pytest.FixtureRequest, models: dict[str, Path]) -> str:
    return str(models[request.param])


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """The spec of the class on the page."""
    code = re.search(r"^```python\n(# /path/to/my_engine\.py\n.*?)^```", PAGE.read_text(), re.M | re.S)
    assert code is not None
    file = tmp_path / "my_engine.py"
    file.write_text(code[1], encoding="utf-8")
    return f"{file}:TransformersEngine"


@pytest.fixture
def engine(spec: str, model: str) -> Engine:
    return make(spec, model)


def make(spec: str, model: str, stops: Sequence[int] = STOPS) -> Engine:
    ids: dict[str, Any] = {"banned_token_ids": BANNED, "stop_token_ids": stops}
    return make_engine(model, SamplerConfig(engine=spec), Precision.fp32, **ids, takes_turns=False)


def samplings(num: int = len(PROMPTS), *, max_tokens: int = 12, temperature: float = TEMPERATURE) -> list[Sampling]:
    return [Sampling(temperature=temperature, max_tokens=max_tokens, seed=i) for i in range(num)]


async def load(engine: Engine, learner: Any, version: int) -> None:
    await engine.load_begin()
    for bucket in buckets_of(learner, 60_000):
        await engine.load(bucket)
    await engine.load_finish(version)


async def sample(engine: Engine, requests: list[Sampling]) -> list[Completion]:
    return await asyncio.gather(*map(engine.generate, map(tuple, PROMPTS), requests))


async def test_it_samples_from_the_loaded_weights(engine: Engine, model: str) -> None:
    first = await sample(engine, samplings())
    assert {version for each in first for version in each.versions.tolist()} == {0}
    for version in (1, 2):
        learner = perturbed(model, 0.02 * version)
        await load(engine, learner, version)
        for prompt, completion in zip(PROMPTS, await sample(engine, samplings()), strict=True):
            assert set(completion.versions.tolist()) == {version}
            assert_sampled_from(learner, prompt, completion, temperature=TEMPERATURE, banned=BANNED)


async def test_a_rollout_does_not_depend_on_what_is_sampled_beside_it(engine: Engine) -> None:
    together = await sample(engine, samplings())
    for prompt, request, completion in zip(PROMPTS, samplings(), together, strict=True):
        alone = await engine.generate(tuple(prompt), request)
        assert alone.token_ids.tolist() == completion.token_ids.tolist()
        assert alone.logprobs.tolist() == completion.logprobs.tolist()


async def test_the_first_choice_at_temperature_0(engine: Engine, model: str) -> None:
    learner = perturbed(model, 0.0)
    for prompt, completion in zip(PROMPTS, await sample(engine, samplings(temperature=0.0)), strict=True):
        row = torch.tensor([[*prompt, *completion.token_ids.tolist()]])
        logits = learner(input_ids=row).logits[0, len(prompt) - 1 : -1]
        logits[:, BANNED] = float("-inf")
        assert completion.token_ids.tolist() == logits.argmax(-1).tolist()


async def test_a_completion_ends_with_a_stop_id_or_at_the_limit(engine: Engine, model: str) -> None:
    tokenizer, ends = AutoTokenizer.from_pretrained(model), {}
    for seed in range(200):
        completion = await engine.generate((3, 13, 4), Sampling(temperature=1.0, max_tokens=3, seed=seed))
        ids = completion.token_ids.tolist()
        assert (completion.stop, len(ids)) == (("stop", ids.index(1) + 1) if 1 in ids else ("length", 3))
        assert completion.text == tokenizer.decode([token for token in ids if token not in STOPS])
        assert len(completion.logprobs) == len(completion.versions) == len(ids)
        ends[completion.stop] = completion
        if len(ends) == 2:
            return
    pytest.fail(f"200 completions ended by {set(ends)} alone")


async def test_nothing_is_sampled_while_weights_are_replaced(spec: str, model: str) -> None:
    engine = make(spec, model, stops=())
    under_way = asyncio.create_task(engine.generate((3, 13, 4), Sampling(temperature=1.0, max_tokens=200, seed=7)))
    await asyncio.sleep(0.05)
    await engine.load_begin()
    await asyncio.sleep(0.05)
    assert not under_way.done()
    for bucket in buckets_of(perturbed(model, 0.02), 60_000):
        await engine.load(bucket)
    await engine.load_finish(3)
    completion = await under_way
    versions = completion.versions.tolist()
    assert versions == sorted(versions)
    assert set(versions) == {0, 3}


async def test_its_logprobs_are_the_models(engine: Engine, model: str) -> None:
    learner, row = perturbed(model, 0.02), [3, 13, 0, 4, 2, 14]
    await load(engine, learner, 1)
    expected = learner(input_ids=torch.tensor([row])).logits[0, :-1].log_softmax(-1)
    logprobs = await engine.logprobs(row)
    assert (logprobs.dtype, logprobs[0]) == (np.float32, 0.0)
    chosen = expected[torch.arange(len(row) - 1), torch.tensor(row[1:])]
    np.testing.assert_allclose(logprobs[1:], chosen.detach().numpy(), atol=1e-4)


async def test_a_corrupt_bucket_is_refused(engine: Engine, model: str) -> None:
    bucket = buckets_of(perturbed(model, 0.02), 60_000)[0]
    assert bucket.buffer is not None
    flipped = bucket.buffer.copy()
    flipped[1000] ^= 1
    await engine.load_begin()
    with pytest.raises(RunError, match="arrived with checksum"):
        await engine.load(dataclasses.replace(bucket, buffer=flipped))


async def test_it_gives_its_memory_in_bytes(engine: Engine) -> None:
    used = [await method() for method in (engine.offload, engine.onload, engine.memory)]
    assert all(number > 1 << 20 for number in used)


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("Mute", InputError, "sampler.engine={spec}: the engine has no close(): implement"),
        ("Broken", RunError, "sampler.engine={spec} cannot be made, OSError: no such library: correct it; the"),
        ("Absent", InputError, "sampler.engine has '{spec}', but Absent does not exist in"),
    ],
)
def test_what_is_no_engine_is_named(tmp_path: Path, model: str, name: str, kind: type[Exception], problem: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN, encoding="utf-8")
    spec = f"{file}:{name}"
    with pytest.raises(kind, match="^" + re.escape(problem.format(spec=spec))):
        make(spec, model)


def test_an_unknown_name_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"^sampler\.engine=sglang: give vllm, or an engine of your own"):
        SamplerConfig(engine="sglang")


def test_a_file_of_ones_own_is_found(spec: str) -> None:
    made: Callable[..., Engine] = find_engine(spec)
    assert made.__name__ == "TransformersEngine"
