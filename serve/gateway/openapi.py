"""The OpenAPI document: what every route reads, what it answers, and how it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rlhf.protocols.openai.chat import ChatCompletionRequest
from rlhf.protocols.openai.completion import CompletionRequest
from rlhf.protocols.openai.responses import ChatCompletionChunk, ErrorBody
from rlhf.protocols.openai.schema import Schema
from serve.gateway.schemas.requests import ConsentBody, FeedbackBody, ReasonBody, StartBody
from serve.gateway.transport import REQUEST_ID
from serve.store.records import Role

PATH = "/openapi.json"
REFERENCE = "#/components/schemas/{model}"
KEY = "api_key"
ERROR_DESCRIPTIONS = {
    400: "The request is wrong; the message names the field and the remedy.",
    401: "An API key is missing or not known.",
    403: "The route is for operators.",
    404: "The model, or the request that feedback is about, does not exist.",
    408: "The body came too slowly.",
    409: "The release is in a state that does not allow this.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    421: "The Host header names another machine than this one, on loopback.",
    429: "Too many requests are under way.",
    500: "An error of this service; its log says more under the request's id.",
    501: "The model's engine cannot do this.",
    503: "The store, the model or the release controller does not answer at the moment.",
    504: "The answer took too long.",
}
COMMON_ERRORS = (421, 500)
BODY_ERRORS = (400, 408, 413, 415)
ENGINE_ERRORS = (404, 429, 501, 503, 504)
"""Further statuses of routes that a model answers. An engine refuses with 400, 404 or 501 too."""

SCHEMAS = (
    ChatCompletionRequest,
    CompletionRequest,
    FeedbackBody,
    ConsentBody,
    StartBody,
    ReasonBody,
    ChatCompletionChunk,
)
"""Schemas of bodies and events. FastAPI knows those of responses."""

UNUSED = {"HTTPValidationError", "ValidationError"}
"""FastAPI's own error about parameters, status 422: no route has any but text in its path."""


def operation(
    answer: type[BaseModel],
    *,
    reads: type[Schema] | None = None,
    needs_body: bool = True,
    streams: type[BaseModel] | None = None,
    status: int = 200,
    errors: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Arguments of a route that describe it. `streams`: what each event of a stream holds, if it can be one."""
    content: dict[str, Any] = {}
    if streams is not None:
        content = {"content": {"text/event-stream": {"schema": events_of(streams)}}}
    statuses = {*COMMON_ERRORS, *errors, *(BODY_ERRORS if reads else ())}
    body = {"required": needs_body, "content": {"application/json": {"schema": reference(reads)}}} if reads else None
    return {
        "status_code": status,
        # Answers are written by the engine or the store as they are; nothing validates them again.
        "response_model": None,
        "responses": {
            status: {"model": answer, **content},
            **{code: {"model": ErrorBody, "description": ERROR_DESCRIPTIONS[code]} for code in sorted(statuses)},
        },
        "openapi_extra": {"requestBody": body} if body else None,
    }


def events_of(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of server-sent events whose data hold the model."""
    piece = {"anyOf": [reference(model), reference(ErrorBody)]}
    data = {"anyOf": [
        {"const": "[DONE]"}, {"type": "string", "contentMediaType": "application/json", "contentSchema": piece},
    ]}  # fmt: skip
    about = "One event. An answer that fails under way ends with an ErrorBody, and every one with `[DONE]`."
    return {"type": "object", "description": about, "properties": {"data": data}, "required": ["data"]}


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def document(api: FastAPI) -> dict[str, Any]:
    """The routes of `api`, with their schemas and the keys that they need."""
    found = get_openapi(
        title="rlhf serving",
        version="1",
        summary="OpenAI's chat and completion routes, feedback on their answers, and releases.",
        description="Users need an API key once one of them has one, and wherever the service is not on loopback.",
        routes=api.routes,
    )
    for route, operation in operations(api, found):
        describe(operation, route)
    _, defined = models_json_schema([(model, "validation") for model in SCHEMAS], ref_template=REFERENCE)
    schemas = found["components"]["schemas"] | defined["$defs"]
    found["components"]["schemas"] = {name: schemas[name] for name in sorted(schemas.keys() - UNUSED)}
    found["components"]["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
    found["components"]["headers"] = {
        "request-id": {"description": "Names the request in the log.", "schema": {"type": "string"}},
        "retry-after": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    }
    return found


def operations(api: FastAPI, found: dict[str, Any]) -> Iterator[tuple[APIRoute, dict[str, Any]]]:
    for route in api.routes:
        assert isinstance(route, APIRoute), route
        for method in route.methods if route.include_in_schema else ():
            yield route, found["paths"][route.path_format][method.lower()]


def describe(operation: dict[str, Any], route: APIRoute) -> None:
    """Add who may call an operation, and the headers of its answers."""
    roles = [role for one in route.dependant.dependencies if (role := getattr(one.call, "role", None))]
    if roles:
        operation["security"] = [{KEY: []}] if Role.operator in roles else [{KEY: []}, {}]
        further = (401, 403) if Role.operator in roles else (401,)
        refused = {"application/json": {"schema": reference(ErrorBody)}}
        operation["responses"] |= {
            str(code): {"description": ERROR_DESCRIPTIONS[code], "content": refused} for code in further
        }
    operation["responses"].pop("422", None)
    for status, answer in operation["responses"].items():
        headers = {REQUEST_ID: {"$ref": "#/components/headers/request-id"}}
        if status in ("429", "503"):
            headers["retry-after"] = {"$ref": "#/components/headers/retry-after"}
        answer["headers"] = headers
