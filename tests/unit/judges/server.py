"""A chat endpoint over a real socket, and a clock that a test moves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from rlhf.judges.config import JudgeConfig


class Reply(NamedTuple):
    status: int
    body: str
    headers: Mapping[str, str] = {}


def completion(text: str, *, prompt_tokens: int = 100, completion_tokens: int = 10, finish: str = "stop") -> Reply:
    """A chat completion as OpenAI's protocol has it."""
    body = {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "judge",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}, "logprobs": None}
        ],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": 0},
    }  # fmt: skip
    return Reply(200, json.dumps(body))


def verdict(rating: float) -> Reply:
    return completion(json.dumps({"reason": "因为", "rating": rating}))


class Server(ThreadingHTTPServer):
    """Answers the n-th request, from 1, with `reply(n, body)`, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.reply: Callable[[int, Any], Reply] = lambda number, body: verdict(5)
        self.requests: list[dict[str, Any]] = []
        self.open, self.most_open = 0, 0
        self.lock = threading.Lock()
        self.release = threading.Event()
        """Set at the end of a test: a reply that waits for it is never given."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append({"path": self.path, "key": self.headers["Authorization"], "body": body})
            number = len(server.requests)
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        reply = server.reply(number, body)
        with server.lock:
            server.open -= 1
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body.encode())))
        with contextlib.suppress(ConnectionError):  # the client may have given up
            self.end_headers()
            self.wfile.write(reply.body.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing on the error stream."""


@contextlib.contextmanager
def running() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join(10)


@dataclass
class FakeTime:
    """A clock on which sleeping costs no time."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def config(url: str, **keys: Any) -> JudgeConfig:
    return JudgeConfig(**{"url": url, "model": "judge", **keys})
