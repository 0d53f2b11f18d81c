"""Connection to a cluster, or start of one on this machine, with deadlines and errors of one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import ray

from rlhf.types import InputError, RunError

REACH_S = 10.0
"""Seconds within which a cluster's address must accept a connection."""
JOIN_S = 60.0
"""Seconds within which a cluster must accept a driver."""
SOCKET_BYTES = 107
"""Longest path of a Unix socket on Linux."""
RAY_SOCKET = "ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""Longest socket path of a Ray session, relative to Ray's temporary folder."""
VLLM_SOCKET = "00000000-0000-0000-0000-000000000000"
"""Socket path of a vLLM engine, relative to the temporary folder."""
JOIN = "import ray; ray.init(log_to_driver=False)"


def start_ray(*, num_cpus: int, num_gpus: int | None = None) -> None:
    """Join the cluster that `RAY_ADDRESS` names, or start one here with `num_cpus` and, unless None, `num_gpus`.

    Raises InputError if a setting of the environment prevents it, RunError if the cluster does not answer.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        check_reachable(address)
    else:
        check_home()
        check_temporary()
    try:
        if address is not None:
            ray.init(log_to_driver=True)
        else:
            # A local machine is never preempted; without Ray's process that watches for preemption ranks start sooner.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            ray.init(
                address="local", num_gpus=num_gpus, num_cpus=num_cpus, include_dashboard=False, log_to_driver=False
            )
    except OSError as error:
        folder = error.filename or temporary_folder()
        raise InputError(
            f"Ray cannot work in its temporary folder ({error.strerror or error}: {folder}); export RAY_TMPDIR=FOLDER, "
            "a short path that this user may write to"
        ) from None
    except Exception as error:
        # Ray raises a plain Exception if a node takes too long to start.
        raise RunError(
            f"Ray does not start ({first_sentence(str(error))}); see its logs in {temporary_folder()}/ray"
        ) from error
    protect_token()


def check_reachable(address: str) -> None:
    """Check within seconds that a cluster answers: Ray itself tries for minutes, or for ever if another service
    listens.

    Raises InputError for an address of another kind, RunError if no cluster answers.
    """
    if address in ("auto", "local") or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return  # Ray finds it on this machine, or has started this driver itself
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address.startswith("http") or not host or not port.isdigit():
        raise InputError(
            f"RAY_ADDRESS={address}: a driver cannot join that address; set it to HOST:6379, the address of `ray start "
            "--head`, or unset it to start a cluster here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise RunError(
            f"RAY_ADDRESS={address}: no cluster is reached there within {REACH_S:g} s ({error}); start it (ray start "
            "--head), correct the address, or unset it to start a cluster here"
        ) from None
    check_joins(address)


def check_joins(address: str) -> None:
    """Join from another process first, since a process can be ended if it waits for ever."""
    try:
        joined = subprocess.run(
            [sys.executable, "-c", JOIN], capture_output=True, text=True, timeout=JOIN_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunError(
            f"RAY_ADDRESS={address}: a service listens there but accepted no driver within {JOIN_S:g} s; set the "
            "address of a head of this Ray version (HOST:6379), and run on one of the cluster's nodes"
        ) from None
    if joined.returncode != 0:
        lines = joined.stderr.strip().splitlines() or [f"exit code {joined.returncode}"]
        raise RunError(
            f"RAY_ADDRESS={address}: the cluster accepts no driver from here ({first_sentence(lines[-1])}); check that "
            "it runs, that this machine is one of its nodes, and that RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH has its "
            "token"
        )


def check_temporary() -> None:
    """Raise InputError if sockets in the temporary folders would have paths that are too long for the system."""
    engines = os.environ.get("VLLM_RPC_BASE_PATH") or tempfile.gettempdir()
    for folder, below in ((temporary_folder(), RAY_SOCKET), (engines, VLLM_SOCKET)):
        length = len(f"{folder}/{below}".encode())
        if length > SOCKET_BYTES:
            raise InputError(
                f"the temporary folder {folder} (TMPDIR) is too long: sockets below it would have paths of {length} "
                f"bytes, and the system allows {SOCKET_BYTES}; export TMPDIR=/tmp, or another short folder"
            )


def temporary_folder() -> str:
    """Return the folder of Ray's sessions, by Ray's own rule on Linux."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()


def check_home() -> None:
    """Raise InputError if Ray cannot store the token of a local cluster in the home directory."""
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if given or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    remedy = "export HOME=FOLDER, a folder that this user may write to"
    token = token_file()
    if token is None:
        raise InputError(f"this user has no home directory, where Ray keeps a cluster's token; {remedy}")
    existing = next(place for place in (token, *token.parents) if os.path.exists(place))
    if not os.access(existing, os.R_OK if existing == token else os.W_OK | os.X_OK):
        raise InputError(f"HOME={token.parents[1]}: Ray cannot keep a cluster's token there ({token}); {remedy}")


def token_file() -> Path | None:
    """Return the file with the token of Ray's clusters; None for a user without a home directory."""
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError:
        return None


def protect_token() -> None:
    """Make the cluster's token readable by this user only; Ray 2.60 writes it with mode 0644."""
    token = token_file()
    if token and os.path.isfile(token) and token.stat().st_uid == os.getuid():
        token.chmod(0o600)


def first_sentence(text: str) -> str:
    """Return the beginning of an error, on one line."""
    return " ".join(text.split())[:200].rstrip(".")
