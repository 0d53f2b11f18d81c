"""What a driver meets before its cluster: one sentence each, in seconds, and no Ray is started for it."""

import os
import socket
import subprocess
import sys

import pytest

from rlhf.actors import connect
from rlhf.actors.connect import check_home, check_joins, check_reachable, check_temporary, protect_token
from rlhf.ports import free_port
from rlhf.types import InputError, RunError

HOMELESS = (
    "import os\n"
    "from rlhf.actors.connect import check_home, protect_token\n"
    "from rlhf.types import InputError\n"
    "os.environ.pop('HOME', None); os.setgid(12345); os.setuid(12345)\n"
    "protect_token()\n"
    "try:\n"
    "    check_home()\n"
    "except InputError as error:\n"
    "    print(error)\n"
)


def test_the_token_is_readable_by_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    protect_token()
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == "secret"


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes another user")
def test_a_user_without_a_home_is_told_before_ray_starts():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    finished = subprocess.run([sys.executable, "-c", HOMELESS], env=environment, capture_output=True, text=True,
                              timeout=600, check=True)  # fmt: skip
    assert finished.stdout == (
        "this user has no home directory, where Ray keeps a cluster's token; export HOME=FOLDER, a folder that this "
        "user may write to\n"
    )


def test_a_token_that_is_given_needs_no_home(monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    check_home()


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR", "VLLM_RPC_BASE_PATH"])
def test_a_temporary_folder_too_long_for_sockets_is_refused(monkeypatch, name):
    for each in ("TMPDIR", "RAY_TMPDIR", "VLLM_RPC_BASE_PATH"):
        monkeypatch.delenv(each, raising=False)
    check_temporary()
    monkeypatch.setenv(name, "/" + "x" * 80)
    with pytest.raises(InputError, match=r"^the temporary folder /x+ \(TMPDIR\) is too long: .* export TMPDIR=/tmp"):
        check_temporary()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "head", "head:port"])
def test_an_address_of_another_kind_is_refused(address):
    with pytest.raises(InputError, match=r"^RAY_ADDRESS=\S+: a driver cannot join that address; set it to HOST:6379"):
        check_reachable(address)


def test_an_address_where_nobody_listens_is_told_at_once():
    port = free_port()
    with pytest.raises(RunError, match=rf"^RAY_ADDRESS=127\.0\.0\.1:{port}: no cluster is reached there within 10 s"):
        check_reachable(f"127.0.0.1:{port}")


def test_an_address_that_never_answers_has_a_deadline(monkeypatch):
    """A server that takes connections and says nothing, for which Ray would wait."""
    monkeypatch.setattr(connect, "JOIN_S", 3.0)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-no-cluster")  # without one Ray does not even try
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(RunError, match=r"a service listens there but accepted no driver within 3 s"):
            check_joins(address)
