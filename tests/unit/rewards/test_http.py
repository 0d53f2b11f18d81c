"""A reward server over a real socket: what it is sent, what it may answer, and what its faults become."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_samples import prompt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from rlhf.rewards.base import RewardConfig, load_reward
from rlhf.rewards.processes import RewardProcesses
from rlhf.types import Failure, InputError, Prompt, Rollout, Score

TEXT = "<|im_start|>你好 7+5=<|im_end|><|im_start|>12<|im_end|>"
NUM_PROMPT_TOKENS = 10


class Server(ThreadingHTTPServer):
    """Answers with `status` and `answer(request)`, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/get_reward"
        self.answer: Callable[[dict[str, Any]], str] = lambda request: json.dumps({"rewards": [1.0]})
        self.status = 200
        self.requests: list[dict[str, Any]] = []
        self.num_connections = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.num_connections += 1

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "type": self.headers["Content-Type"], **request})
        body = self.server.answer(request).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # who asked may have been killed
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the error stream."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join(10)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per character, and two special ones."""
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate(["<unk>", *sorted(set("你好 7+5=12"))])}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return backend


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def asked(tokenizer: Tokenizer) -> tuple[Prompt, Rollout]:
    token_ids = np.array(tokenizer.encode(TEXT).ids, dtype=np.int32)
    total = len(token_ids)
    rollout = Rollout(
        prompt_id="p0",
        token_ids=token_ids,
        loss_mask=np.arange(total) >= NUM_PROMPT_TOKENS,
        logprobs=np.zeros(total, np.float32),
        versions=np.zeros(total, np.int32),
        stop="stop",
        text="12",
    )
    ids = tuple(token_ids[:NUM_PROMPT_TOKENS].tolist())
    return Prompt(id="p0", messages=[], token_ids=ids, source="d:1", meta={"answer": "十二"}), rollout


def configured(url: str, folder: Path, **settings: Any) -> RewardConfig:
    return RewardConfig(functions=["http"], options={"http": {"url": url, "tokenizer": str(folder)}}, **settings)


def test_the_server_is_sent_what_openrlhf_sends(server, folder, asked):
    server.answer = lambda request: json.dumps(
        {"rewards": [0.25], "scores": [9.0], "extra_logs": {"dummy_scores": [9.0]}}
    )
    result = load_reward(configured(server.url, folder))(*asked)
    assert result == Score(value=0.25, parts={"http": 0.25})
    (sent,) = server.requests
    assert sent == {
        "path": "/get_reward",
        "type": "application/json",
        "query": [TEXT],
        "prompts": ["<|im_start|>你好 7+5=<|im_end|><|im_start|>"],
        "labels": ["十二"],
    }


def test_a_row_without_an_answer_has_an_empty_label(server, folder, asked):
    load_reward(configured(server.url, folder))(prompt(), asked[1])
    assert server.requests[0]["labels"] == [""]


@pytest.mark.parametrize(
    ("status", "answer", "kind", "said"),
    [
        (500, "Traceback\n  out of memory", "reward_error", "answered status 500 (Traceback out of memory): look at"),
        (503, "", "reward_error", "answered status 503 (nothing): look at the server's log"),
        (404, "x" * 999, "reward_error", f"answered status 404 ({'x' * 200}...): look at the server's log"),
        (200, "<html>", "reward_invalid", 'answered <html>: it must be {"rewards": [number]}, one finite number'),
        (200, " ", "reward_invalid", "answered nothing: it must be"),
        (200, "[1.0]", "reward_invalid", "answered [1.0]: it must be"),
        (200, '{"reward": [1.0]}', "reward_invalid", 'answered {"reward": [1.0]}: it must be'),
        (200, '{"rewards": 1.0}', "reward_invalid", 'answered {"rewards": 1.0}: it must be'),
        (200, '{"rewards": []}', "reward_invalid", 'answered {"rewards": []}: it must be'),
        (200, '{"rewards": [1.0, 2.0]}', "reward_invalid", 'answered {"rewards": [1.0, 2.0]}: it must be'),
        (200, '{"rewards": [[1.0]]}', "reward_invalid", 'answered {"rewards": [[1.0]]}: it must be'),
        (200, '{"rewards": ["1"]}', "reward_invalid", 'answered {"rewards": ["1"]}: it must be'),
        (200, '{"rewards": [null]}', "reward_invalid", 'answered {"rewards": [null]}: it must be'),
        (200, '{"rewards": [NaN]}', "reward_invalid", 'answered {"rewards": [NaN]}: it must be'),
        (200, '{"rewards": [-Infinity]}', "reward_invalid", 'answered {"rewards": [-Infinity]}: it must be'),
        (200, '{"rewards": [1e999]}', "reward_invalid", 'answered {"rewards": [1e999]}: it must be'),
    ],
)
def test_a_wrong_answer_is_a_failure_that_names_the_url(server, folder, asked, status, answer, kind, said):
    server.status, server.answer = status, lambda request: answer
    result = load_reward(configured(server.url, folder))(*asked)
    assert isinstance(result, Failure)
    assert result.kind == kind
    assert result.message.startswith(f"reward http: {server.url} {said}")
    assert "\n" not in result.message


def test_a_server_that_is_down_is_a_failure_that_names_the_url(folder, asked):
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/get_reward"
        result = load_reward(configured(url, folder))(*asked)
    assert isinstance(result, Failure)
    assert result.kind == "reward_error"
    assert result.message == (
        f"reward http: {url} cannot be reached (ConnectionRefusedError: [Errno 111] Connection refused): "
        "start the server, or correct reward.options.http.url"
    )


async def score(config: RewardConfig, asked: tuple[Prompt, Rollout], times: int) -> list[Score | Failure]:
    processes = RewardProcesses(config)
    try:
        await processes.start()
        return await asyncio.gather(*(processes.score(*asked) for _ in range(times)))
    finally:
        await processes.close()


@pytest.mark.timeout(300)
async def test_a_process_keeps_its_connection(server, folder, asked):
    server.answer = lambda request: json.dumps({"rewards": [len(request["query"][0])]})
    results = await score(configured(server.url, folder, num_processes=2), asked, times=40)
    assert [result.value for result in results] == [len(TEXT)] * 40
    assert len(server.requests) == 40
    assert server.num_connections == 2


@pytest.mark.timeout(300)
async def test_a_slow_server_is_a_timeout_that_names_the_url_and_costs_that_rollout(server, folder, asked):
    def slow_once(request: dict[str, Any]) -> str:
        if len(server.requests) == 1:
            time.sleep(1.5)
        return json.dumps({"rewards": [1.0]})

    server.answer = slow_once
    slow, *others = await score(configured(server.url, folder, timeout_s=0.5, max_attempts=1), asked, times=4)
    assert isinstance(slow, Failure)
    assert slow.kind == "reward_timeout"
    assert re.fullmatch(
        rf"reward http\(url={server.url}, tokenizer={folder}\): no score for prompt 'p0' within 0.5 s, so its process "
        r"was killed; make it faster or raise reward.timeout_s",
        slow.message,
    )
    assert others == [Score(value=1.0, parts={"http": 1.0})] * 3


@pytest.mark.timeout(300)
async def test_a_server_that_comes_back_is_asked_again(server, folder, asked):
    def busy_once(request: dict[str, Any]) -> str:
        server.status = 503 if len(server.requests) == 1 else 200
        return json.dumps({"rewards": [1.0]})

    server.answer = busy_once
    assert await score(configured(server.url, folder), asked, times=1) == [Score(value=1.0, parts={"http": 1.0})]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "url", ["", "localhost:5000", "ftp://host/x", "http://", "http:///get_reward", "http://h:99999", "http://[::1", 5]
)
def test_an_address_that_is_none_is_refused(folder, url):
    with pytest.raises(InputError) as caught:
        load_reward(configured(url, folder))
    assert str(caught.value) == (f"reward.options.http.url={url}: give an address such as http://host:5000/get_reward")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing a required argument: 'url'; its options: url, tokenizer"):
        load_reward(RewardConfig(functions=["http"]))
    with pytest.raises(InputError, match=rf"tokenizer={tmp_path}: there is no {tmp_path}/tokenizer.json; give the"):
        load_reward(configured("https://host/get_reward", tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"reward http cannot be made from reward.options.http, Exception: .*EOF"):
        load_reward(configured("https://host/get_reward", tmp_path))
