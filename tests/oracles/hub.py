"""A small Hub over HTTP: the routes for files that huggingface_hub uses, of repositories held in memory."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

INFO = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
TREE = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
FILE = re.compile(r"(/(?P<kind>datasets))?/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass(kw_only=True, slots=True)
class Repository:
    """What was published under one id."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by path, by commit."""
    branches: dict[str, str] = field(default_factory=dict)
    """Commits by name."""
    token: str | None = None
    """Who gives it may read the files. None: everyone may."""


@dataclass(kw_only=True, slots=True)
class Hub:
    """The repositories of a server, and what it was asked for."""

    endpoint: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    """By kind (`models` or `datasets`) and `owner/name`."""
    requests: list[str] = field(default_factory=list)
    """Method and path of every request."""
    broken: str | None = None
    """Requests whose path contains it are answered with error 501, which clients do not try again."""

    def publish(self, name: str, files: Mapping[str, bytes], kind: str = "models", branch: str = "main") -> str:
        """Put files at the head of a branch; their commit."""
        repository = self.repositories.setdefault((kind, name), Repository())
        digest = hashlib.sha1(repr(sorted(files.items())).encode())
        commit = digest.hexdigest()
        repository.commits[commit] = dict(files)
        repository.branches[branch] = commit
        return commit


@contextmanager
def serving() -> Iterator[Hub]:
    """A server on a port of its own, until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            if hub.broken is not None and hub.broken in path:
                return self.refuse(501, "Broken")
            if match := FILE.fullmatch(path):
                return self.send_file(match["kind"] or "models", match)
            if match := TREE.fullmatch(path) or INFO.fullmatch(path):
                return self.send_description(match)
            return self.refuse(404, "EntryNotFound")

        def find(self, kind: str, match: re.Match[str]) -> tuple[Repository, str] | None:
            """The repository and the commit; None where one is not there, which is answered."""
            repository = hub.repositories.get((kind, match["name"]))
            if repository is None:
                self.refuse(404, "RepoNotFound")
                return None
            revision = unquote(match["revision"] or "main")
            commit = repository.branches.get(revision, revision)
            if commit not in repository.commits:
                self.refuse(404, "RevisionNotFound")
                return None
            return repository, commit

        def send_description(self, match: re.Match[str]) -> None:
            found = self.find(match["kind"], match)
            if found is None:
                return
            repository, commit = found
            files = repository.commits[commit]
            described: Any = {
                "id": match["name"], "sha": commit, "tags": [], "siblings": [{"rfilename": path} for path in files],
            }  # fmt: skip
            if match.re is TREE:
                described = [
                    {"type": "file", "path": path, "size": len(data), "oid": etag(data)} for path, data in files.items()
                ]
            self.send(200, json.dumps(described).encode(), {"Content-Type": "application/json"})

        def send_file(self, kind: str, match: re.Match[str]) -> None:
            found = self.find(kind, match)
            if found is None:
                return
            repository, commit = found
            if repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
                return self.refuse(403, "GatedRepo")
            data = repository.commits[commit].get(unquote(match["path"]))
            if data is None:
                return self.refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
            self.send(200, data, {"ETag": f'"{etag(data)}"', "X-Repo-Commit": commit})

        def refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
            self.send(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

        def send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """`hub.requests` says it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """What a folder holds, by path, to be published."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
