"""The gateway's own HTTP server, on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from rlhf.types import InputError
from serve.config import HttpConfig
from serve.gateway.http_server import bind, reserve_port, run_http_server

DEADLINE_S = 30


def free_http() -> HttpConfig:
    with bind(HttpConfig(port=0), shared=False) as probe:
        return HttpConfig(port=probe.getsockname()[1])


async def app(scope, receive, send):
    """Answers with the path, after as many seconds as the query says."""
    request = Request(scope, receive)
    await asyncio.sleep(float(request.url.query or 0))
    await PlainTextResponse(request.url.path)(scope, receive, send)


async def echo(scope, receive, send):
    """Answers with the path and the size of the body."""
    request = Request(scope, receive)
    size = len(await request.body())
    await PlainTextResponse(f"{request.url.path} {size}")(scope, receive, send)


@asynccontextmanager
async def open_server(
    http: HttpConfig, headers_s: float = DEADLINE_S, drain_s: float = DEADLINE_S, app: ASGIApp = app
) -> AsyncIterator[str]:
    async with asyncio.timeout(2 * DEADLINE_S), run_http_server(app, http, headers_s=headers_s, drain_s=drain_s):
        yield f"http://{http.host}:{http.port}"


async def response_to(http: HttpConfig, sent: bytes) -> bytes:
    """What the server answers until it closes the connection."""
    reader, writer = await asyncio.open_connection(http.host, http.port)
    writer.write(sent)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_answers_at_its_address_alone_and_says_not_what_it_runs_on():
    http = free_http()
    async with open_server(http) as url, httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/here")
    assert answer.text == "/here"
    assert "server" not in answer.headers
    with pytest.raises(OSError, match=r"refused|Connect"):
        await asyncio.open_connection(http.host, http.port)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\n"])
async def test_a_connection_whose_headers_do_not_come_is_closed(sent):
    http = free_http()
    async with open_server(http, headers_s=0.2):
        assert (await response_to(http, sent)).startswith(b"HTTP/1.1 408 ")


async def test_headers_without_end_are_not_kept():
    http = free_http()
    async with open_server(http):
        reader, writer = await asyncio.open_connection(http.host, http.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n")
        with suppress(ConnectionError):
            for _ in range(10_000):
                writer.write(1000 * b"x: some bytes\r\n")
                await writer.drain()
                await asyncio.sleep(0)
        sent = reader.at_eof() or isinstance(reader.exception(), ConnectionError)
        writer.close()
    assert sent, "the connection was closed under it"


async def test_a_long_body_in_many_pieces_is_no_header():
    http = free_http()
    head = b"POST /long HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3000000\r\n\r\n"
    async with open_server(http, app=echo):
        assert b"/long 3000000" in await response_to(http, head + 3_000_000 * b"a")


H2C = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"
"""What Java's client sends with its first request."""


@pytest.mark.parametrize("pieces", [1, 2, 1000])
async def test_a_request_that_offers_http2_is_answered_with_its_body(pieces):
    http = free_http()
    body = b"x" * 500
    sent = f"POST /body HTTP/1.1\r\nhost: a\r\n{H2C}content-length: {len(body)}\r\n\r\n".encode() + body
    then = b"GET /then HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    size = -(-len(sent) // pieces)
    async with open_server(http, app=echo):
        reader, writer = await asyncio.open_connection(http.host, http.port)
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(then)
        said = await reader.read()
        writer.close()
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert b"/body 500" in said
    assert b"/then 0" in said


async def test_it_is_no_proxy():
    http = free_http()
    async with open_server(http):
        assert (await response_to(http, b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_half_a_request_behind_a_slow_one_does_not_end_that():
    http = free_http()
    async with open_server(http, headers_s=0.2):
        said = await response_to(http, b"GET /slow?0.7 HTTP/1.1\r\nhost: a\r\n\r\nGET /half HTTP/1.1\r\n")
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b"/slow" in said
    assert b"HTTP/1.1 408 " in said, "its own time is over then"


async def test_its_end_waits_for_what_is_under_way_and_takes_nothing_new():
    http = free_http()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        async with open_server(http) as url:
            slow = asyncio.create_task(client.get(f"{url}/slow?1"))
            await asyncio.sleep(0.3)
        assert (await slow).text == "/slow"


async def test_its_end_waits_no_longer_than_it_may():
    http = free_http()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        async with open_server(http, drain_s=1) as url:
            slow = asyncio.create_task(client.get(f"{url}/slow?60"))
            await asyncio.sleep(0.3)
        assert (await slow).status_code == 500


async def test_two_gateways_share_a_port_and_one_that_ends_leaves_the_other():
    http = free_http()
    async with open_server(http) as url:
        async with open_server(http), httpx.AsyncClient() as client:
            assert (await client.get(f"{url}/both")).text == "/both"
        async with httpx.AsyncClient() as client:
            for _ in range(10):
                assert (await client.get(f"{url}/one", headers={"connection": "close"})).text == "/one"


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_that_another_program_has(shared):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(InputError, match="another program") as error:
        bind(HttpConfig(port=other.getsockname()[1]), shared=shared)
    assert "http.port" in str(error.value)


def test_a_service_cannot_take_the_port_of_another_one():
    http = free_http()
    with bind(http, shared=True), pytest.raises(InputError, match="another program"):
        bind(http, shared=False)


async def test_the_port_of_a_service_that_starts_is_not_free():
    http = free_http()
    with reserve_port(http):
        with pytest.raises(InputError, match="another program"), reserve_port(http):
            pass
        async with open_server(http) as url, httpx.AsyncClient() as client:
            for _ in range(10):
                assert (await client.get(f"{url}/here", headers={"connection": "close"})).text == "/here"
            with pytest.raises(InputError, match="another program"), reserve_port(http):
                pass
    with reserve_port(http):
        """Connections of a moment ago do not keep it."""


@pytest.mark.parametrize(
    ("host", "port"), [("203.0.113.1", 8000), ("no.such.host.invalid", 8000), ("127.0.0.1", 70000)]
)
def test_an_address_that_is_not_this_machines(host, port):
    with pytest.raises(InputError, match=f"http.host={host}, http.port={port}: "):
        bind(HttpConfig(host=host, port=port), shared=False)


async def test_ipv6():
    http = HttpConfig(host="::1", port=free_http().port)
    async with run_http_server(app, http, headers_s=1, drain_s=1), httpx.AsyncClient() as client:
        assert (await client.get(f"http://[::1]:{http.port}/six")).text == "/six"
