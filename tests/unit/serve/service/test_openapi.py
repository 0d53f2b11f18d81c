"""The OpenAPI document: valid, complete, and what schemathesis makes of it is answered as it says."""

import copy
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import validate
from schemathesis import GenerationMode, checks
from starlette.testclient import TestClient

from serve.control.release_manager import ReleaseManager
from serve.gateway.auth import hash_key
from serve.gateway.gateway import Gateway
from serve.gateway.openapi import ERROR_DESCRIPTIONS
from serve.store.records import Role
from tests.unit.serve.service.conftest import KEYS, NOW, opened, running
from tests.unit.serve.service.engines import Engines
from tests.unit.serve.service.test_auth import CHAT, ROUTES

OPERATIONS = {(method, path.replace(":path", "")): role for (method, path), (role, *_) in ROUTES.items()}
del OPERATIONS["GET", "/openapi.json"]
WITHOUT_RELEASE = ("/release/promote", "/release/rollback")
REQUESTS = [
    *((method, path.replace(":path", ""), body or {}, 400 if path in WITHOUT_RELEASE else status)
      for (method, path), (_, body, status) in ROUTES.items() if path != "/openapi.json"),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}, 200),
    ("POST", "/v1/completions", {"model": "assistant", "prompt": "hi", "stream": True}, 200),
]  # fmt: skip
CONFORMANCE = [
    checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_headers_conformance, checks.response_schema_conformance,
]  # fmt: skip
EXAMPLES = 40
"""Of each kind for each operation: of what the document allows, and of what it does not."""


@pytest.fixture(scope="module")
def asked(make_config, stocked, tmp_path_factory) -> Iterator[TestClient]:
    """A service that an operator asks."""
    with opened(stocked, tmp_path_factory.mktemp("fuzzed")) as store:
        store.keys.add(hash_key(KEYS["operator"]), Role.operator, "op", NOW)
        manager = ReleaseManager(store, make_config(), lambda: NOW)

        async def command(name: str, /, **arguments: str) -> dict:
            """What the release controller does, but for engines."""
            if name == "start":
                manager.check_start(arguments["name"], arguments["folder"])
            elif name != "status":
                getattr(manager, name)(**arguments)
            return manager.status()

        with running(Gateway(make_config(body_bytes=1 << 20), store, Engines()), command) as client:
            yield client


@pytest.fixture(scope="module")
def document(asked) -> dict:
    return asked.get("/openapi.json").json()


def test_the_document_is_valid_and_has_every_route_with_its_role(document):
    validate(document)
    found = {
        (method.upper(), path): operation.get("security")
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    needed = {None: None, Role.user: [{"api_key": []}, {}], Role.operator: [{"api_key": []}]}
    assert found == {place: needed[role] for place, role in OPERATIONS.items()}


def test_every_refusal_has_the_body_of_errors_and_every_answer_its_headers(document):
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                assert "x-request-id" in response["headers"]
                if int(status) >= 400:
                    assert response["content"] == error, path
                    assert response["description"] == ERROR_DESCRIPTIONS[int(status)]


def send(client: TestClient, case: schemathesis.Case) -> int:
    """The status of the answer, which is as the document says."""
    sent = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
    sent["headers"]["authorization"] = f"Bearer {KEYS['operator']}"
    response = client.request(**sent)
    case.validate_response(response, checks=CONFORMANCE)
    return response.status_code


@pytest.mark.parametrize(("method", "path", "body", "status"), REQUESTS)
def test_a_right_request_is_answered_as_the_document_says(asked, document, folders, method, path, body, status):
    operation = schemathesis.openapi.from_dict(document)[path][method]
    if "folder" in body:
        body = {**body, "folder": str(folders["new"])}
    names = {part.strip("{}"): "assistant" for part in path.split("/") if part.startswith("{")}
    case = operation.Case(path_parameters=names, **({"body": body, "media_type": "application/json"} if body else {}))
    assert send(asked, case) == status


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_whatever_a_client_sends_is_answered_as_the_document_says(asked, document, method, path, mode):
    document = copy.deepcopy(document)
    for name in ("ChatCompletionRequest", "CompletionRequest"):
        # Any other name is a 404, whatever else there is.
        document["components"]["schemas"][name]["properties"]["model"] = {"const": "assistant"}
    operation = schemathesis.openapi.from_dict(document)[path][method]
    if mode is GenerationMode.NEGATIVE and not operation.body:
        pytest.skip("it reads nothing that could be wrong")

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(mode))
    def ask(case):
        send(asked, case)

    ask()
