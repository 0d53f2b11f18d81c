"""Requests for generated text: the fields that chat and completion requests share."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rlhf.protocols.openai.schema import INT32, PATTERN_CHARACTERS, Finite, JsonSchema, Label, OpenAISchema, TokenId
from rlhf.protocols.text import PLAIN, Plain

STOP_STRINGS, STOP_CHARACTERS, STOP_TOKENS, BIASES, CHOICES = 4, 64, 64, 300, 64
CONSTRAINTS = {"tools", "tool_choice", "response_format", "structured_outputs"}
"""Fields that change the prompt or the form of the answer, so they count as part of the prompt."""
NO_SAMPLING = {"model", "messages", "prompt", "stream", "stream_options", *CONSTRAINTS}

Stop = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS)]


class StreamOptions(OpenAISchema):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = Field(False, exclude=True)
    """Accepted without effect: pieces are never padded."""


class NamedSchema(OpenAISchema):
    name: Label
    description: str | None = None
    content: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(OpenAISchema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` belongs to type 'json_schema', and to no other; give both or neither")
        return self


class StructuredOutputs(OpenAISchema):
    """vLLM's forms of an answer. Grammars are left out: nothing bounds the time that they take to compile."""

    content: JsonSchema | None = Field(None, alias="json")
    regex: Annotated[str, Field(min_length=1, max_length=PATTERN_CHARACTERS)] | None = None
    choice: list[Annotated[Label, Field(min_length=1)]] | None = Field(None, min_length=1, max_length=CHOICES)
    json_object: Literal[True] | None = None
    disable_any_whitespace: bool = False

    @model_validator(mode="after")
    def has_one(self) -> StructuredOutputs:
        if sum(form is not None for form in (self.content, self.regex, self.choice, self.json_object)) != 1:
            raise ValueError("it is one of `json`, `regex`, `choice` and `json_object`; give exactly one")
        return self


class GenerationRequest(OpenAISchema):
    """Fields of chat and completion requests. Those with `exclude` never reach the engine."""

    model: Plain
    user: Annotated[str, Field(min_length=1, max_length=256), PLAIN] | None = Field(None, exclude=True)
    metadata: dict[Plain, Plain] | None = Field(None, exclude=True)
    """`conversation` joins the turns of one; other keys are the sender's own."""
    n: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0, lt=INT32)
    temperature: Finite | None = Field(None, ge=0, le=2)
    top_p: Finite | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=INT32)
    min_p: Finite | None = Field(None, ge=0, le=1)
    presence_penalty: Finite | None = Field(None, ge=-2, le=2)
    frequency_penalty: Finite | None = Field(None, ge=-2, le=2)
    repetition_penalty: Finite | None = Field(None, ge=0.01, le=100)
    """Bounded, as logits divided by less would overflow in float32."""
    logit_bias: dict[str, Annotated[Finite, Field(ge=-100, le=100)]] | None = Field(None, max_length=BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | list[Stop] | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=STOP_TOKENS)
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    store: Literal[False] = Field(False, exclude=True)
    """Must be false: the user's consent decides what is kept."""
    safety_identifier: Label | None = Field(None, exclude=True)
    """Accepted without effect, as are the next two."""
    prompt_cache_key: Label | None = Field(None, exclude=True)
    service_tier: Literal["auto", "default"] | None = Field(None, exclude=True)

    @field_validator("stop")
    @classmethod
    def few(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > STOP_STRINGS:
            raise ValueError(f"{len(stop)} strings are more than {STOP_STRINGS}; leave some out")
        return stop

    @cached_property
    def dialogue(self) -> list[dict[str, Any]] | None:
        """Messages, as they are recorded; None if the prompt has no text."""
        raise NotImplementedError

    @property
    def prompt_content(self) -> Any:
        """Messages or prompts, as they are hashed."""
        raise NotImplementedError

    @property
    def opening(self) -> Any:
        """The part of `prompt_content` that later turns repeat."""
        raise NotImplementedError

    @property
    def turn(self) -> int:
        """Number of user messages."""
        raise NotImplementedError

    def for_engine(self, max_tokens: int) -> dict[str, Any]:
        """Return the body for an engine behind the server; a stream always reports its usage.

        `max_tokens`: the limit of a request that names none.
        """
        body = self.model_dump(exclude_none=True, exclude={"stream_options"})
        body.setdefault("max_tokens", max_tokens)
        if not self.stream:
            return body
        options = self.stream_options
        is_often = options is not None and options.include_usage and options.continuous_usage_stats
        often = {"continuous_usage_stats": True} if is_often else {}
        return {**body, "stream_options": {"include_usage": True, **often}}

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields that the request sets and that change how tokens are drawn."""
        return self.model_dump(exclude_none=True, exclude_unset=True, exclude=NO_SAMPLING)

    @property
    def prompt_hash(self) -> str:
        """Digest of the prompt, and of the tools and the form of the answer, if the request sets them."""
        constraints = self.model_dump(exclude_none=True, exclude_unset=True, include=CONSTRAINTS)
        return digest([self.prompt_content, constraints] if constraints else self.prompt_content)

    def conversation(self, user: str) -> str:
        """Return the name that the sender gave, or a digest of the user and the first turn."""
        named = (self.metadata or {}).get("conversation")
        return digest([user, named] if named else [user, self.opening])


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
