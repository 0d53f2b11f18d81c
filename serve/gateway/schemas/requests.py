"""Request schemas of this service's own routes; parsing of bodies and their limits."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from rlhf.protocols.openai.chat import ChatCompletionRequest
from rlhf.protocols.openai.completion import CompletionRequest
from rlhf.protocols.openai.generation import GenerationRequest
from rlhf.protocols.openai.schema import Finite, Schema
from rlhf.protocols.text import PLAIN, Plain
from serve.config import LimitsConfig
from serve.gateway.errors import ApiError
from serve.store.records import Endpoint, FeedbackKind
from serve.text import excerpt

SchemaT = TypeVar("SchemaT", bound=Schema)


class FeedbackBody(Schema):
    """Feedback: `serve.store.records.Feedback` says what each kind needs."""

    request_id: Plain
    kind: Annotated[FeedbackKind, Field(strict=False)]
    user: Plain | None = None
    choice: int = Field(0, ge=0)
    value: Finite | None = None
    text: str | None = None
    name: Annotated[str, Field(max_length=64), PLAIN] | None = None


class ConsentBody(Schema):
    """Consent of a user to keeping texts, or its withdrawal."""

    user: Plain | None = None
    given: bool


class StartBody(Schema):
    """A candidate."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    folder: Plain
    reason: Plain = ""


class ReasonBody(Schema):
    """Reason of an operator's command."""

    reason: Plain = ""


REQUEST_SCHEMAS: dict[Endpoint, type[GenerationRequest]] = {
    Endpoint.chat: ChatCompletionRequest,
    Endpoint.completion: CompletionRequest,
}


def read(raw: bytes, kind: type[SchemaT]) -> SchemaT:
    """Parse a body. Raises ApiError 400 with the field and the problem."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        unknown = first["type"] == "extra_forbidden"
        *places, last = map(str, first["loc"] or [""])
        path = excerpt(".".join([*filter(is_place, places), *([last] if unknown or is_place(last) else [])]))
        if first["type"] == "json_invalid":
            raise ApiError(400, f"the body is not JSON: {first['msg']}") from None
        if unknown:
            raise ApiError(400, f"{path}: there is no such field here; leave it out", param=path) from None
        raise ApiError(
            400, f"{path or 'body'}: {first['msg'].removeprefix('Value error, ')}", param=path or None
        ) from None


def is_place(part: str) -> bool:
    """Return whether a part of an error's path is a field or an index: unions put their alternatives into it too."""
    return part.isdigit() or (part.isidentifier() and part.islower() and part != "str")


def check_limits(request: GenerationRequest, limits: LimitsConfig) -> None:
    """Raise ApiError 400 if a request exceeds a limit."""
    tokens = getattr(request, "max_completion_tokens", None) or request.max_tokens or 0
    if tokens > limits.max_tokens:
        raise ApiError(
            400, f"max_tokens: {excerpt(tokens)} is more than {limits.max_tokens}; ask for less", param="max_tokens"
        )
    if request.n > limits.choices:
        raise ApiError(400, f"n: {excerpt(request.n)} is more than {limits.choices}; ask for fewer", param="n")
    match request:
        case ChatCompletionRequest() if len(request.messages) > limits.messages:
            message = f"messages: {len(request.messages)} are more than {limits.messages}; leave out the oldest"
            raise ApiError(400, message, param="messages")
        case CompletionRequest() if len(request.prompts) > 1 and request.n * len(request.prompts) > limits.prompts:
            count = request.n * len(request.prompts)
            message = f"prompt: {count} completions are more than {limits.prompts}; send fewer prompts at once"
            raise ApiError(400, message, param="prompt")


def check_scoring(request: GenerationRequest, max_adapters: int) -> None:
    """Raise ApiError 400 if a request asks for logprobs of its prompt and the engines serve adapters.

    vLLM 0.32 applies adapters to as many rows of logits as it samples: with more rows, as of a prompt, the engine dies
    or its logprobs are wrong (vllm#16668).
    """
    if max_adapters > 0 and isinstance(request, CompletionRequest) and request.echo and request.logprobs is not None:
        message = (
            f"logprobs: with echo they include the prompt's, which engines with adapters (engine.max_adapters="
            f"{max_adapters}) do not compute; leave out echo or logprobs"
        )
        raise ApiError(400, message, param="logprobs")
