"""Command lines: what they print, and whose turn it is."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from launch import keys, release
from rlhf.command_line import command_line
from rlhf.ports import free_port
from serve.gateway.auth import hash_key
from serve.store.store import Store

REPOSITORY = Path(__file__).parents[4]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in this process: exit code, output, and what it says of errors."""

    def call(main: Callable[[], None], *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["command", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command_line(main)
            except SystemExit as end:
                return int(end.code), out.getvalue(), err.getvalue()
        return 0, out.getvalue(), err.getvalue()

    return call


def test_keys_are_added_shown_and_removed(run, sqlite_url):
    url = f"url={sqlite_url}"
    code, printed, _ = run(keys.main, "add", url, "owner=ann", "role=operator")
    key = printed.splitlines()[0]
    assert code == 0
    assert "shown this once" in printed
    store = Store(sqlite_url)
    assert store.keys.get(hash_key(key)).role == "operator"
    store.close()
    code, listed, _ = run(keys.main, "list", url)
    assert (code, listed) == (0, f"{hash_key(key)[:12]} operator ann\n")
    assert run(keys.main, "remove", url, f"hash={hash_key(key)}")[0] == 0
    assert run(keys.main, "list", url) == (0, "", "")
    assert run(keys.main, "add", url, "owner=bot", "users=1")[0] == 0
    assert run(keys.main, "list", url)[1].endswith(" user bot at most 1 users\n")
    assert "users=-1: give 0 or more" in run(keys.main, "add", url, "owner=bot", "users=-1")[2]


@pytest.mark.parametrize("script", ["keys", "release", "export_feedback", "lineage"])
def test_scripts_find_the_package_beside_a_script_of_its_name(script):
    """In a process of its own, where Python puts `launch/` with its serve.py first."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, REPOSITORY / f"launch/{script}.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"python launch/{script}.py " in done.stderr


def test_a_hash_that_looks_like_a_number_is_none(run, sqlite_url):
    hashes = ["00" + "7" * 62, "12e4" + "5" * 60]
    store = Store(sqlite_url)
    for hash in hashes:
        store.keys.add(hash, "user", "ann", 1.0)
    for hash in hashes:
        assert run(keys.main, "remove", f"url={sqlite_url}", f"hash={hash[:4]}") == (0, "", "")
    assert store.keys.all() == []
    store.close()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "say what to do, one of add, list, remove"),
        (["revoke"], "say what to do, one of add, list, remove"),
        (["add"], "owner: it must be set, as in owner=..."),
        (["add", "owner="], "owner=: give a name without a slash"),
        (["add", "owner=a/b"], "owner=a/b: give a name without a slash"),
        (["add", "owner=a", "role=boss"], "role=boss: give user or operator"),
        (["add", "ower=a"], "ower: there is no such key; did you mean owner?"),
        (["remove"], "hash: it must be set, as in hash=..."),
        (["remove", "hash=xyz"], "hash=xyz: 0 keys begin like this"),
        (["list", "url=sqlite:///nowhere.db"], "nowhere.db: no database there"),
        (["list", "url=mysql://x"], "neither SQLite in a file nor PostgreSQL"),
    ],
)
def test_wrong_words_about_keys(run, sqlite_url, words, sentence):
    code, out, err = run(keys.main, *words[:1], *[f"url={sqlite_url}"][: len(words)], *words[1:])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sentence in err


STATUS = {
    "production": "old",
    "models": [],
    "release": {
        "id": "r1",
        "candidate": "new",
        "predecessor": "old",
        "state": "shadow",
        "transitions": [{"at": 12.0, "before": "", "after": "shadow", "by": "ann", "reason": "started"}],
    },
    "look": {"outcome": "hold", "reasons": ["the step has run 1 of 10 s"], "evidence": {"since": 12.0}},
}


class Service(ThreadingHTTPServer):
    """Answers what the test says, and keeps what it was asked."""

    status, body, kind = 200, json.dumps(STATUS), "application/json"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str, dict]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        key = self.headers["authorization"]
        self.server.asked.append((self.command, self.path, key, json.loads(raw) if raw else {}))
        self.send_response(self.server.status)
        if self.server.kind:
            self.send_header("content-type", self.server.kind)
        self.end_headers()
        self.wfile.write(self.server.body.encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "operator.key").write_text("sk-1\n")
    return f"key={tmp_path / 'operator.key'}"


def test_every_command_asks_for_its_route(run, service, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"url={service.url}/"
    assert run(release.main, "status", url, key)[0] == 0
    assert run(release.main, "start", url, key, "name=new", "folder=models/new", "reason=why not")[0] == 0
    assert run(release.main, "promote", url, key, "reason=good")[0] == 0
    assert run(release.main, "rollback", url, key)[0] == 0
    bearer = "Bearer sk-1"
    start = {"name": "new", "folder": str(tmp_path.resolve() / "models/new"), "reason": "why not"}
    assert service.asked == [
        ("GET", "/release", bearer, {}),
        ("POST", "/release/start", bearer, start),
        ("POST", "/release/promote", bearer, {"reason": "good"}),
        ("POST", "/release/rollback", bearer, {"reason": ""}),
    ]


def test_a_release_in_words(run, service, key):
    _, printed, _ = run(release.main, "status", f"url={service.url}", key)
    assert printed.splitlines()[:4] == [
        "in production: old",
        "r1: new against old: shadow",
        "  12.0 - -> shadow by ann: started",
        "last look: hold: the step has run 1 of 10 s",
    ]
    assert json.loads("".join(printed.splitlines()[4:])) == {"since": 12.0}
    service.body = json.dumps({"production": "old", "models": [], "release": None})
    assert run(release.main, "status", f"url={service.url}", key)[1] == "in production: old\n"


REFUSED = json.dumps({"error": {"message": "there is no release yet; start one"}})


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "sentence"),
    [
        (400, REFUSED, "application/json", 2, "there is no release yet; start one"),
        (409, REFUSED, None, 2, "there is no release yet; start one"),
        (503, REFUSED, "application/json", 4, "there is no release yet; start one"),
        (502, "<html>Bad Gateway</html>", "text/html", 4, "status 502 from a server that is not the service"),
        (404, '{"detail": "Not Found"}', "application/json", 4, "status 404 from a server that is not the service"),
        (200, "hello", None, 4, "status 200 from a server that is not the service"),
    ],
)
def test_answers_that_are_no_release(run, service, key, status, body, kind, code, sentence):
    service.status, service.body, service.kind = status, body, kind
    found, out, err = run(release.main, "promote", f"url={service.url}", key)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sentence in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "say what to do, one of start, status, promote, rollback, power"),
        (["deploy"], "say what to do, one of start, status, promote, rollback, power"),
        (["start", "folder=x"], "name: it must be set, as in name=..."),
        (["start", "name=x"], "folder: it must be set, as in folder=..."),
        (["promote", "name=x"], "name: there is no such key"),
        (["status", "key=nowhere"], "key=nowhere: No such file or directory; name the file with an operator's key"),
        (["power", "sd=1"], "effect: it must be set, as in effect=..."),
        (["power", "sd=1", "effect=0"], "effect"),
        (["power", "sd=one", "effect=1"], "sd"),
    ],
)
def test_wrong_words_about_releases(run, words, sentence):
    code, out, err = run(release.main, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert sentence in err


def test_a_service_that_is_not_there_is_its_turn(run, key):
    url = f"http://127.0.0.1:{free_port()}"
    code, _, err = run(release.main, "status", f"url={url}", key)
    assert code == 4
    assert f"url={url}: the service does not answer" in err
    assert "make serve" in err


def test_the_power_calculation_says_what_to_set(run):
    code, printed, _ = run(release.main, "power", "sd=0.5", "effect=0.1")
    # One side, two samples of 0.5 and 0.1: (1.645 + 0.842)^2 * 2 * 0.25 / 0.01 = 309.1, and a little for the t.
    assert code == 0
    needed = int(printed.split()[0])
    assert 310 <= needed <= 312
    assert printed.endswith(f"release.goal.test=fixed release.goal.users_per_arm={needed}\n")
