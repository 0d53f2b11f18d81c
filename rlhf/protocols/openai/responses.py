"""Response schemas: completions, their streams, models and errors. Servers may add fields of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ResponseSchema(BaseModel):
    """Body of a response, or a part of it; further fields are kept."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)


class Error(ResponseSchema):
    message: str
    """The problem, and its remedy."""
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    """The field that is wrong, if it is one."""
    code: int
    """HTTP status."""


class ErrorBody(ResponseSchema):
    """Body of every error."""

    error: Error


class ModelCard(ResponseSchema):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(ResponseSchema):
    object: Literal["list"]
    data: list[ModelCard]


class Usage(ResponseSchema):
    prompt_tokens: int
    completion_tokens: int | None
    total_tokens: int


class TokenLogprob(ResponseSchema):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TopLogprobs(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(ResponseSchema):
    content: list[TopLogprobs] | None


class CalledFunction(ResponseSchema):
    name: str | None = None
    arguments: str | None = None


class CalledTool(ResponseSchema):
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None
    """Index among the calls of a stream, whose later pieces have neither id nor name."""
    function: CalledFunction | None = None


class AnswerMessage(ResponseSchema):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[CalledTool] = Field(default_factory=list)


class ChatChoice(ResponseSchema):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None


class ChatCompletion(ResponseSchema):
    id: str
    """Feedback names it as `request_id`."""
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChunkChoice(ResponseSchema):
    index: int
    delta: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(ResponseSchema):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(ResponseSchema):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(ResponseSchema):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None


class Completion(ResponseSchema):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
