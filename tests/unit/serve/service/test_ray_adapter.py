"""Names of Ray that are not public: where they stand, and that the Ray installed here has them."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray import serve as ray_serve
from ray.serve._private.client import ServeControllerClient
from ray.serve.config import HTTPOptions

from serve.control import ray_adapter

REPOSITORY = Path(__file__).parents[4]
MODE = "from serve.control.ray_adapter import is_token_auth_enabled as on; print(on())"


def private_imports(file: Path) -> list[str]:
    """Names below `ray` that have a part that begins with an underscore."""
    imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom | ast.Import)]
    names = [
        f"{getattr(node, 'module', None) or ''}.{alias.name}".lstrip(".") for node in imports for alias in node.names
    ]
    return [name for name in names if name.startswith("ray.") and "._" in name]


def test_private_names_of_ray_stand_in_one_file_of_serving():
    found = {
        str(file.relative_to(REPOSITORY)): names
        for file in (REPOSITORY / "serve").rglob("*.py")
        if (names := private_imports(file))
    }
    assert found == {
        "serve/control/ray_adapter.py": [
            "ray._private.authentication.authentication_utils",
            "ray._private.state.available_resources_per_node",
            "ray.serve.context._get_global_client",
        ]
    }


@pytest.mark.parametrize(("mode", "answer"), [("token", "True"), ("disabled", "False")])
def test_ray_tells_whether_its_ports_want_a_token(mode, answer):
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", MODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.strip() == answer


def test_the_address_of_serves_proxies_is_where_the_adapter_reads_it():
    client = ServeControllerClient.__new__(ServeControllerClient)
    client._http_config = HTTPOptions(host="127.0.0.9")
    assert client.http_config.host == "127.0.0.9"
    returned = inspect.signature(ray_adapter._get_global_client).return_annotation
    assert ServeControllerClient.__name__ in str(returned)


@pytest.mark.parametrize(
    ("call", "keyword"), [(ray_serve.get_deployment_handle, "_check_exists"), (ray_serve.delete, "_blocking")]
)
def test_keywords_of_serve_that_are_not_public_are_there(call, keyword):
    assert keyword in inspect.signature(inspect.unwrap(call)).parameters


def test_ray_lists_free_resources_by_node():
    assert list(inspect.signature(ray_adapter.available_resources_per_node).parameters) == []
