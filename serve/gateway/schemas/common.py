"""Fields that chat and completion requests share; every field is known and every number has a limit."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from serve.config import LimitsConfig
from serve.text import PLAIN, Plain

STOP_STRINGS, STOP_CHARACTERS, STOP_TOKENS, LOGPROBS, BIASES, CHOICES = 4, 64, 64, 20, 300, 64
SCHEMA_BYTES, SCHEMA_DEPTH, PATTERN_CHARACTERS = 1 << 14, 32, 256
"""Largest JSON schema; the engine compiles it to a grammar, in a time that grows with these."""
INT32 = 2**31
CONSTRAINTS = {"tools", "tool_choice", "response_format", "structured_outputs"}
"""Fields that change the prompt or the form of the answer, so they count as part of what was asked."""
NO_SAMPLING = {"model", "messages", "prompt", "stream", "stream_options", *CONSTRAINTS}

Finite = Annotated[float, Field(allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0, lt=INT32)]
Label = Annotated[str, Field(max_length=256)]


def check_schema_size(schema: dict[str, Any]) -> dict[str, Any]:
    """Raise ValueError if a JSON schema is larger than an engine should compile."""
    size = len(json.dumps(schema))
    if size > SCHEMA_BYTES:
        raise ValueError(f"a schema of {size} bytes is larger than {SCHEMA_BYTES}; split it")
    level: list[Any] = [schema]
    for _ in range(SCHEMA_DEPTH):
        nested = []
        for node in level:
            for key, child in node.items() if isinstance(node, dict) else enumerate(node):
                if key == "pattern" and isinstance(child, str) and len(child) > PATTERN_CHARACTERS:
                    raise ValueError(f"a pattern of {len(child)} characters is longer than {PATTERN_CHARACTERS}")
                if isinstance(child, dict | list):
                    nested.append(child)
        if not nested:
            return schema
        level = nested
    raise ValueError(f"a schema nested deeper than {SCHEMA_DEPTH} levels; make it flatter")


JsonSchema = Annotated[dict[str, Any], AfterValidator(check_schema_size)]


class Schema(BaseModel):
    """Body of a request, or a part of it."""

    model_config = ConfigDict(extra="forbid", strict=True, serialize_by_alias=True, use_attribute_docstrings=True)


def with_nulls(schema: dict[str, Any]) -> None:
    """Add to a JSON schema that null stands for a field left out."""
    for name, field in schema["properties"].items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}


class OpenAISchema(Schema):
    """A part of OpenAI's protocol, whose clients send null for what they leave out."""

    model_config = ConfigDict(json_schema_extra=with_nulls)

    @model_validator(mode="before")
    @classmethod
    def drop_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


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

    def for_engine(self, limits: LimitsConfig) -> dict[str, Any]:
        """The body that the engine gets; of a stream always with its usage, which is recorded."""
        body = self.model_dump(exclude_none=True, exclude={"stream_options"})
        body.setdefault("max_tokens", limits.max_tokens)
        if not self.stream:
            return body
        options = self.stream_options
        is_often = options is not None and options.include_usage and options.continuous_usage_stats
        often = {"continuous_usage_stats": True} if is_often else {}
        return {**body, "stream_options": {"include_usage": True, **often}}

    @property
    def sampling(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude_unset=True, exclude=NO_SAMPLING)

    @property
    def prompt_hash(self) -> str:
        constraints = self.model_dump(exclude_none=True, exclude_unset=True, include=CONSTRAINTS)
        return digest([self.prompt_content, constraints] if constraints else self.prompt_content)

    def conversation(self, user: str) -> str:
        """Return the name that the sender gave, or a digest of the user and the first turn."""
        named = (self.metadata or {}).get("conversation")
        return digest([user, named] if named else [user, self.opening])


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
