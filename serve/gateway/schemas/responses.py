"""Answers of every route, as the OpenAPI document describes them. Engines may add fields of their own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.store.database import Erasure


class Answer(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class Error(Answer):
    message: str
    """The problem, and its remedy."""
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    """The field that is wrong, if it is one."""
    code: int
    """HTTP status."""


class ErrorBody(Answer):
    """Body of every error."""

    error: Error


class Health(Answer):
    status: Literal["ok"]


class Readiness(Answer):
    status: Literal["ok", "degraded"]
    problems: list[str]
    records_waiting: int
    lost: int
    deleted_text_pending: bool


class ModelCard(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Answer):
    object: Literal["list"]
    data: list[ModelCard]


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int | None
    total_tokens: int


class TokenLogprob(Answer):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TopLogprobs(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Answer):
    content: list[TopLogprobs] | None


class CalledFunction(Answer):
    name: str | None = None
    arguments: str | None = None


class CalledTool(Answer):
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None
    """Index among the calls of a stream, whose later pieces have neither id nor name."""
    function: CalledFunction | None = None


class AnswerMessage(Answer):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[CalledTool] = Field(default_factory=list)


class ChatChoice(Answer):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None


class ChatCompletion(Answer):
    id: str
    """Feedback names it as `request_id`."""
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChunkChoice(Answer):
    index: int
    delta: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(Answer):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Answer):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class FeedbackResponse(Answer):
    id: str


class ErasureResponse(Answer):
    text: Erasure | None = None
    """State of the text in the database's files."""


class ConsentResponse(ErasureResponse):
    user: str
    given: bool


class DeletionResponse(ErasureResponse):
    """Rows deleted by table, and what is left of the user elsewhere."""

    requests: int
    responses: int
    feedback: int
    exposures: int
    consents: int
    exports: list[str]
    """Folders of exports that hold rows of the user."""


class ReleaseStatus(Answer):
    """The release, and what was last found about it."""

    production: str | None
    models: list[dict[str, Any]]
    release: dict[str, Any] | None
    look: dict[str, Any] | None = None
