"""Bodies that come slowly, or never."""

import asyncio
import json
import socket
import threading
from collections import Counter

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from serve.gateway import routes, routing
from serve.gateway.auth import hash_key
from serve.gateway.gateway import Gateway
from serve.store.records import Role
from tests.unit.serve.service.conftest import KEYS, NOW, command
from tests.unit.serve.service.test_auth import CHAT

HALF = b'{"model":'
DEADLINE_S = 60


async def half_sent(api: FastAPI, address: str, key: str, ends: asyncio.Event) -> int:
    """A request whose body ends with the event, or never; its status."""
    statuses = []

    async def parts() -> dict:
        if not statuses and not began.is_set():
            began.set()
            return {"type": "http.request", "body": HALF, "more_body": True}
        await ends.wait()
        return {"type": "http.request", "body": b"0}", "more_body": False}

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            assert (message["status"] == 408) == ((b"connection", b"close") in message["headers"])

    began = asyncio.Event()
    headers = {"host": "localhost", "content-type": "application/json", "authorization": f"Bearer {key}"}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (address, 1),
        "app": api,
    }
    await api(scope, parts, send)
    return statuses[0]


@pytest.fixture
def gateway(make_config, store, engines) -> Gateway:
    for role, key in KEYS.items():
        store.keys.add(hash_key(key), Role(role), role, NOW)
    gateway = Gateway(make_config(body_s=DEADLINE_S, unread_bodies=8), store, engines)
    gateway.routing_table = routing.read(store, gateway.config)
    return gateway


async def test_of_many_slow_bodies_of_one_sender_few_are_waited_for(gateway):
    api, never, soon = routes.build(gateway, command), asyncio.Event(), asyncio.Event()
    slow = [asyncio.create_task(half_sent(api, "10.0.0.1", KEYS["user"], never)) for _ in range(330)]
    by_key = [asyncio.create_task(half_sent(api, "10.0.0.2", KEYS["user"], never)) for _ in range(2)]
    by_address = [asyncio.create_task(half_sent(api, "10.0.0.1", KEYS["operator"], never)) for _ in range(2)]
    others = [asyncio.create_task(half_sent(api, "10.0.0.2", KEYS["operator"], soon)) for _ in range(8)]
    await asyncio.sleep(0)
    transport = httpx.ASGITransport(api, client=("10.0.0.1", 1))
    headers = {"authorization": f"Bearer {KEYS['user']}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        async with asyncio.timeout(DEADLINE_S):
            while sum(task.done() for task in slow + by_key + by_address) != 326:
                await asyncio.sleep(0.02)
        assert sum(task.done() for task in by_key + by_address) == 4
        assert not any(task.done() for task in others), "of another key and another address"
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        soon.set()
        assert set(await asyncio.gather(*others)) == {400}, "complete, though no request"
        never.set()
        assert Counter(await asyncio.gather(*slow, *by_key, *by_address)) == {408: 326, 400: 8}
    assert not +api.state.body_reader.slow


def test_a_server_closes_the_connection_of_a_body_that_never_ends(gateway):
    gateway.config.limits.body_s = 0.2
    api = routes.build(gateway, command)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(api, log_level="critical", timeout_keep_alive=1000))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {KEYS['user']}\r\nContent-Length: 1000\r\n\r\n"
            )
            with socket.create_connection(listener.getsockname(), DEADLINE_S) as client:
                client.sendall(head.encode() + HALF)
                answer = b""
                while part := client.recv(4096):
                    answer += part
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["message"] == "the body is not complete after 0.2 s: send it faster"
