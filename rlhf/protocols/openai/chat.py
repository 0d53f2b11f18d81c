"""Chat requests: messages of every role, and tools."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rlhf.protocols.openai.generation import GenerationRequest
from rlhf.protocols.openai.schema import LOGPROBS, JsonSchema, Label, OpenAISchema

TOOLS, TOOL_CALLS = 64, 64


class TextPart(OpenAISchema):
    type: Literal["text"]
    text: str


class FunctionCall(OpenAISchema):
    name: Label
    arguments: str


class ToolCall(OpenAISchema):
    id: Label
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = Field(None, exclude=True)
    """Index of the call in a stream."""


class Message(OpenAISchema):
    """A message as it is written, or as a server answered it. Fields with `exclude` have no effect."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = Field(None, validate_default=True)
    name: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=TOOL_CALLS)
    tool_call_id: Label | None = Field(None, validate_default=True)
    reasoning: str | None = None
    reasoning_content: str | None = Field(None, exclude=True)
    """Older name of `reasoning`."""
    refusal: str | None = Field(None, exclude=True)
    annotations: list[Any] | None = Field(None, exclude=True)
    provider_specific_fields: dict[str, Any] | None = Field(None, exclude=True)

    @field_validator("content")
    @classmethod
    def has_content(cls, content: Any, info: ValidationInfo) -> Any:
        if content is None and info.data.get("role", "assistant") != "assistant":
            raise ValueError(f"a message of the role {info.data['role']!r} has one; give its text")
        return content

    @field_validator("tool_calls", "reasoning", "reasoning_content")
    @classmethod
    def is_assistants(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("role", "assistant") != "assistant":
            raise ValueError(f"an assistant's message has it, not one of the role {info.data['role']!r}; leave it out")
        return value

    @field_validator("tool_call_id")
    @classmethod
    def names_call(cls, id: str | None, info: ValidationInfo) -> str | None:
        if (id is not None) != (info.data.get("role") == "tool") and "role" in info.data:
            raise ValueError("a message of the role 'tool' has one, and no other; name the call it answers")
        return id

    @model_validator(mode="after")
    def as_engine_knows_it(self) -> Message:
        self.reasoning = self.reasoning if self.reasoning is not None else self.reasoning_content
        self.tool_calls = self.tool_calls or None
        return self


class FunctionDefinition(OpenAISchema):
    name: Label
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class Tool(OpenAISchema):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(OpenAISchema):
    name: Label


class ToolChoice(OpenAISchema):
    type: Literal["function"]
    function: FunctionName


class ChatCompletionRequest(GenerationRequest):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=LOGPROBS)
    tools: list[Tool] | None = Field(None, min_length=1, max_length=TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(None, exclude=True)
    """Accepted without effect."""
    modalities: list[Literal["text"]] | None = Field(None, exclude=True)

    @cached_property
    def dialogue(self) -> list[dict[str, Any]]:
        # Rows that are exported need a text in every message.
        return [{"content": "", **message.model_dump(exclude_none=True)} for message in self.messages]

    @property
    def prompt_content(self) -> list[dict[str, Any]]:
        return self.dialogue

    @property
    def opening(self) -> list[dict[str, Any]]:
        roles = [message["role"] for message in self.dialogue]
        first = roles.index("user") if "user" in roles else len(roles) - 1
        return self.dialogue[: first + 1]

    @property
    def turn(self) -> int:
        return sum(message["role"] == "user" for message in self.dialogue)
