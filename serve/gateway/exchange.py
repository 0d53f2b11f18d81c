"""One exchange: a request, its answer as far as it has come, and how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.protocols.openai.generation import GenerationRequest
from serve.gateway.errors import CLIENT_GONE, ApiError
from serve.gateway.log_redaction import describe_error
from serve.gateway.recorder import Recorder
from serve.gateway.routing import Deployment
from serve.store.consent import salted_hash
from serve.store.records import Endpoint, Request, Response

LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Exchange:
    """A request in progress, its answer so far, and its outcome."""

    id: str
    user: str
    endpoint: Endpoint
    request: GenerationRequest
    deployment: Deployment
    experiment: str | None
    salt: str
    """The store's, for hashes of texts."""
    request_id: str
    """The HTTP request's, which the log and the response name."""
    shadow_of: str | None = None
    at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    status: int = 499
    error: str | None = CLIENT_GONE
    """Sentence of an error; None after a success. Until an end is known, the client may go away."""
    first_token_s: float | None = None
    texts: dict[int, str] = field(default_factory=dict)
    calls: dict[int, dict[int, dict[str, Any]]] = field(default_factory=dict)
    """Tool calls of each choice, by their place."""
    reasons: dict[int, str | None] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)

    def redirect(self, deployment: Deployment) -> None:
        """Answer from another deployment, outside of any experiment."""
        self.deployment, self.experiment = deployment, None

    def take(self, body: Mapping[str, Any]) -> None:
        """Add a whole answer or one chunk of a stream."""
        if body.get("usage"):
            self.usage = body["usage"]
        for choice in body.get("choices", ()):
            said = choice.get("message") or choice.get("delta") or choice
            text = said.get("content") or said.get("text") or ""
            self.texts[choice["index"]] = self.texts.get(choice["index"], "") + text
            self.reasons[choice["index"]] = choice.get("finish_reason") or self.reasons.get(choice["index"])
            if said.get("tool_calls"):
                join_calls(self.calls.setdefault(choice["index"], {}), said["tool_calls"])
            is_said = text or said.get("reasoning") or said.get("tool_calls")
            if is_said and self.first_token_s is None:
                self.first_token_s = self.elapsed_s

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    @property
    def label(self) -> str:
        """Name of the exchange in the log."""
        return f"{self.id} (request {self.request_id})"

    def succeed(self) -> None:
        """Note that the answer is whole."""
        self.status, self.error = 200, None

    def fail(self, error: Exception) -> ApiError:
        """Note the error that ends the exchange; return the one that the user gets."""
        match error:
            case ApiError():
                api_error = error
            case TimeoutError():
                api_error = ApiError(504, "the answer takes too long: ask for less")
            case _:
                LOG.error("%s: an unexpected error: %s", self.label, describe_error(error))
                self.status, self.error = 500, f"{type(error).__name__}: {error}"
                return ApiError(500, f"an error of this service: its log says more under {self.id}")
        self.status, self.error = api_error.status, api_error.message
        return api_error

    def record(self) -> Request:
        """Return what the store keeps of it."""
        tokens = self.usage.get("completion_tokens")
        # The usage is of all choices together.
        counts = {0: tokens} if len(self.texts) == 1 else {}
        return Request(
            id=self.id,
            user=self.user,
            at=self.at,
            endpoint=self.endpoint,
            variant=self.deployment.variant,
            version=self.deployment.version,
            experiment=self.experiment,
            shadow_of=self.shadow_of,
            conversation=salted_hash(self.salt, self.request.conversation(self.user)),
            turn=self.request.turn,
            prompt_hash=salted_hash(self.salt, self.request.prompt_hash),
            messages=self.request.dialogue,
            sampling=self.request.sampling,
            status=self.status,
            error=self.error,
            prompt_tokens=self.usage.get("prompt_tokens"),
            latency_s=self.elapsed_s,
            first_token_s=self.first_token_s if self.request.stream else None,
            responses=[
                Response(
                    index=i,
                    text=self.texts[i],
                    finish_reason=self.reasons[i],
                    num_tokens=counts.get(i),
                    tool_calls=[call for _, call in sorted(self.calls[i].items())] if i in self.calls else None,
                )
                for i in sorted(self.texts)
            ],
        )


def join_calls(calls: dict[int, dict[str, Any]], pieces: Sequence[Mapping[str, Any]]) -> None:
    """Add whole tool calls, or pieces of a stream's, to those of the same choice."""
    for number, piece in enumerate(pieces):
        empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call, function = calls.setdefault(piece.get("index", number), empty), piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        call["function"]["arguments"] += function.get("arguments") or ""


@dataclass(frozen=True, slots=True)
class Recording:
    """A context in which an exchange is answered, and the only owner of its end, which its exit records.

    An error becomes the ApiError that the user gets. A generator would be shorter, but the event loop keeps account of
    each, for every request.
    """

    exchange: Exchange
    recorder: Recorder

    async def __aenter__(self) -> None:
        """Nothing is recorded before the end."""

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Record the exchange. Raises ApiError if the block raised an error."""
        api_error = self.exchange.fail(error) if isinstance(error, Exception) else None
        await self.recorder.record(self.exchange.record())
        if api_error is not None and api_error is not error:
            raise api_error from None
