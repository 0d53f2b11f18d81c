"""Simulated users over HTTP, on a service that keeps records late."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from rlhf.types import RunError
from serve.loop.simulated_users import Question, SimulatedUsers

QUESTIONS = [Question(prompt="a=", answer="a"), Question(prompt="b=", answer="b")]


class Service(BaseHTTPRequestHandler):
    """Answers `a` to everything; feedback on an answer is refused with `refusal` the first two times."""

    refusal = 404
    tries: ClassVar[Counter[str]] = Counter()

    def answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, answer = 200, {"id": f"{body['user']}-{len(self.tries)}", "choices": [{"message": {"content": "a"}}]}
        if self.path == "/v1/feedback":
            self.tries[body["request_id"]] += 1
            status = self.refusal if self.tries[body["request_id"]] < 3 else 201
        raw = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_POST = do_PUT = answer

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def service() -> Iterator[type[Service]]:
    handler = type("Late", (Service,), {"tries": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler
        server.shutdown()


def users(service: type[Service]) -> SimulatedUsers:
    return SimulatedUsers(url=service.url, model="assistant", questions=QUESTIONS, max_tokens=1, edits=0.0, at_once=1)


@pytest.mark.parametrize("refusal", [404, 503])
def test_feedback_is_sent_again_until_the_answer_is_recorded(service, refusal):
    service.refusal = refusal
    crowd = users(service)
    asyncio.run(crowd.run(1))
    assert crowd.statuses == {200: 2}
    assert list(service.tries.values()) == [3, 3]


def test_feedback_that_is_wrong_ends_the_users(service):
    service.refusal = 400
    with pytest.raises(ExceptionGroup) as errors:
        asyncio.run(users(service).run(1))
    (error,) = errors.value.exceptions
    assert isinstance(error, RunError)
    assert "feedback was refused with 400" in str(error)
