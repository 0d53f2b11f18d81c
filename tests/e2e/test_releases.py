"""Releases on the real service, decided by scripted users: better, worse, slow, and without feedback."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config import compose
from rlhf.models.tiny import build_tiny_model
from rlhf.ports import free_port
from serve.app import OPERATOR_KEY
from serve.config import ServeConfig
from serve.local import serving
from serve.loop.simulated_users import Question, SimulatedUsers

CONF = Path(__file__).parents[2] / "conf"
LETTERS = "abcdef"
QUESTIONS = [Question(prompt=f"{letter}=", answer=letter) for letter in LETTERS]
MIN_USERS = 15
DECIDED = ("promoted", "rolled_back", "paused")
DEADLINE_S = 900.0
"""Seconds until a release must be decided, on however busy a machine."""
RELEASE = [
    "service=tiny",
    "release.shadow_requests=20",
    "release.steps=[0.2,0.5]",
    "release.min_step_s=1",
    f"release.max_step_s={DEADLINE_S}",
    "release.observation_s=1",
    f"release.goal.min_users={MIN_USERS}",
    "release.guardrails.slow.at_most=null",
    "+release.guardrails.slow.at_most_ratio=5.0",
    "release.guardrails.slow.min_samples=20",
]


def speaker(folder: Path, share: float) -> str:
    """A model that answers a letter with itself this often, else with `z`."""
    build_tiny_model(folder, alphabet=f"{LETTERS}z=", context_tokens=64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question.prompt}], add_generation_prompt=True, return_dict=False
        )
        for question in QUESTIONS
    ]
    prompt = torch.tensor(prompts)
    right = torch.tensor([tokenizer.convert_tokens_to_ids(question.answer) for question in QUESTIONS])
    wrong, end = tokenizer.convert_tokens_to_ids("z"), tokenizer.eos_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        first = model(prompt).logits[:, -1].log_softmax(-1)
        answered = (
            torch.cat([prompt, right[:, None]], 1),
            torch.cat([prompt, torch.full_like(right, wrong)[:, None]], 1),
        )
        ends = sum(model(tokens).logits[:, -1].log_softmax(-1)[:, end].mean() for tokens in answered)
        chosen = share * first.gather(1, right[:, None]).mean() + (1 - share) * first[:, wrong].mean()
        loss = -chosen - ends
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return str(folder)


class Service:
    """The service with its operator's key."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.headers = url, {"authorization": f"Bearer {key}"}
        self.rounds = 0

    def operate(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        answer = httpx.request(
            method, self.url + path, headers=self.headers, json=body if method == "POST" else None, timeout=DEADLINE_S
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def crowd(self, **settings: Any) -> SimulatedUsers:
        self.rounds += 1
        return SimulatedUsers(
            url=self.url, model="assistant", questions=QUESTIONS, max_tokens=4, seed=self.rounds, **settings
        )

    def release(self, name: str, folder: str, crowd: SimulatedUsers, *phases: str) -> dict[str, Any]:
        """Start a release and let users come until it is in one of these phases."""
        self.operate("POST", "/release/start", name=name, folder=folder)
        return self.run(crowd, lambda status: status["release"]["phase"] in phases)

    def run(self, crowd: SimulatedUsers, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Let users come until the release's status satisfies `until`, or the deadline has passed."""

        async def wait() -> dict[str, Any]:
            decided, deadline = asyncio.Event(), time.monotonic() + DEADLINE_S
            users = asyncio.create_task(crowd.run(100_000, decided))
            try:
                while True:
                    status = await asyncio.to_thread(self.operate, "GET", "/release")
                    # Users whom an error ended would leave a release undecided.
                    if until(status) or time.monotonic() > deadline or users.done():
                        return status
                    await asyncio.sleep(0.5)
            finally:
                decided.set()
                await users

        return asyncio.run(wait())


@pytest.fixture(scope="module")
def service(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("serving")
    half = speaker(root / "half", 0.5)
    words = [f"output={root / 'service'}", f"+models.half={half}", "production=half", f"http.port={free_port()}"]
    config = compose(CONF, "serve", [*RELEASE, *words], ServeConfig)
    with serving(config) as url:
        yield Service(url, (root / "service" / OPERATOR_KEY).read_text())


def is_decided(status: dict[str, Any]) -> bool:
    return status["release"]["phase"] in DECIDED


def has_seen_enough_users(status: dict[str, Any]) -> bool:
    """Whether the step that runs was judged with the users it needs, if they had said something; or all is over."""
    evidence = status.get("look", {}).get("evidence", {})
    goal = evidence.get("goal", {})
    counts = (goal.get("num_candidate", 0), goal.get("num_predecessor", 0))
    return is_decided(status) or min(counts) >= MIN_USERS


def states(status: dict[str, Any]) -> list[str]:
    return [entry["after"] for entry in status["release"]["transitions"]]


def test_prompts_are_scored_beside_each_other(service: Service) -> None:
    """As lm-eval asks, of engines without adapters: logprobs of all tokens but the first, and of the one sampled."""
    document = httpx.get(f"{service.url}/openapi.json").json()
    schema = {"$ref": "#/components/schemas/Completion", "components": document["components"]}
    body = {"model": "assistant", "prompt": [[5, 6], [7], [5, 6, 7]], "logprobs": 1, "echo": True, "max_tokens": 1}
    answer = httpx.post(f"{service.url}/v1/completions", json=body, timeout=DEADLINE_S).json()
    jsonschema.validate(answer, schema)
    logprobs = [choice["logprobs"]["token_logprobs"] for choice in answer["choices"]]
    assert [(len(each), each[0]) for each in logprobs] == [(3, None), (2, None), (4, None)]
    assert all(value < 0 for each in logprobs for value in each[1:])


def test_a_candidate_waits_for_feedback_and_is_promoted_where_it_is_better(service: Service, tmp_path: Path) -> None:
    better = speaker(tmp_path / "better", 0.95)
    silent = service.release("better", better, service.crowd(thumbs=0.0), "canary")
    assert states(silent) == ["shadow", "canary-20"]
    silent = service.run(service.crowd(thumbs=0.0), has_seen_enough_users)
    assert states(silent) == ["shadow", "canary-20"]
    assert silent["look"]["outcome"] == "hold"
    assert "thumbs" in silent["look"]["reasons"][0]
    assert silent["production"] == "half"
    status = service.run(service.crowd(), is_decided)
    assert states(status) == ["shadow", "canary-20", "canary-50", "promoted"]
    assert status["production"] == "better"
    goal = status["release"]["transitions"][-1]["evidence"]["goal"]
    # Bounds are on the wide side: of a difference that is only just significant this one is 0.
    assert goal["low"] >= 0
    assert goal["better"] == 1
    assert goal["candidate"] > 0.7 > goal["predecessor"]
    # Users see it: the new model is right nearly always.
    crowd = service.crowd()
    asyncio.run(crowd.run(30))
    assert crowd.statuses == {200: 120}
    assert crowd.right[True] / 120 > 0.8


def test_a_worse_candidate_is_rolled_back(service: Service, tmp_path: Path) -> None:
    before = service.operate("GET", "/release")["production"]
    worse = speaker(tmp_path / "worse", 0.05)
    status = service.release("worse", worse, service.crowd(), *DECIDED)
    assert status["release"]["phase"] == "rolled_back", status
    assert status["production"] == before
    last = status["release"]["transitions"][-1]
    assert (last["by"], last["outcome"]) == ("controller", "roll_back")
    assert last["evidence"]["goal"]["high"] <= 0
    assert last["evidence"]["goal"]["better"] == -1
    crowd = service.crowd()
    asyncio.run(crowd.run(10))
    assert crowd.statuses == {200: 40}


def test_a_slow_candidate_trips_the_guardrail_before_users_see_it(service: Service, tmp_path: Path) -> None:
    # It has learnt nothing: how fast it answers is all that matters here.
    slow = tmp_path / "slow"
    build_tiny_model(slow, alphabet=f"{LETTERS}z=", num_layers=160, context_tokens=64)
    # Few users at once: each of their requests is copied to the slow model, which would answer dozens at a time.
    status = service.release("slow", str(slow), service.crowd(at_once=2), *DECIDED, "canary")
    assert states(status) == ["shadow", "rolled_back"]
    reason = status["release"]["transitions"][-1]["reason"]
    assert "slow" in reason
    assert "latency_p95_s" in reason
