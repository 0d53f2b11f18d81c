"""What the service lays down before it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.types import InputError
from serve.app import OPERATOR_KEY, prepare

REPOSITORY = Path(__file__).parents[4]


def test_a_folder_that_the_service_makes_is_its_owners_alone(tmp_path, config):
    config.output = str(tmp_path / "service")
    prepare(config)
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "service", *(tmp_path / "service").iterdir())
    }
    assert modes["service"] == 0o700
    assert modes[OPERATOR_KEY] == modes["store.sqlite"] == 0o600


def test_a_folder_that_is_there_keeps_its_permissions(tmp_path, config):
    (tmp_path / "service").mkdir(0o750)
    config.output = str(tmp_path / "service")
    prepare(config)
    assert (tmp_path / "service").stat().st_mode & 0o777 == 0o750


def test_a_parser_that_does_not_exist_is_refused_before_anything_is_made(tmp_path, config):
    config.output = str(tmp_path / "service")
    config.engine.tool_call_parser = "hermez"
    with pytest.raises(InputError, match=r"engine\.tool_call_parser=hermez: vLLM has no such parser"):
        prepare(config)
    assert not (tmp_path / "service").exists()


def test_others_are_not_let_in_where_rays_authentication_is_off(tmp_path):
    """Nothing is laid down."""
    words = ["output=service", "http.host=0.0.0.0", "+models.one=one", "production=one"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, REPOSITORY / "launch/serve.py", *words], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: http.host=0.0.0.0: others can reach it and Ray's authentication is off")
    assert not (tmp_path / "service").exists()
