"""What may be asked: OpenAI's requests, of which every field is known and every number has a limit."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serve.doors import Refusal
from serve.records import Endpoint, FeedbackKind
from serve.settings import LimitsConfig

Finite = Annotated[float, Field(allow_inf_nan=False)]
STOP_STRINGS, STOP_CHARACTERS, LOGPROBS, BIASES = 4, 64, 20, 300
Stop = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS)]
NO_SAMPLING = {"model", "messages", "prompt", "user", "metadata", "stream", "stream_options"}


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


ModelT = TypeVar("ModelT", bound=Model)


class TextPart(Model):
    type: Literal["text"]
    text: str


class Message(Model):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None


class StreamOptions(Model):
    include_usage: bool = False


class Asked(Model):
    """What both kinds of request have."""

    model: str
    user: str | None = Field(None, min_length=1, max_length=256)
    metadata: dict[str, str] | None = None
    """`conversation` joins the turns of one; other keys are the sender's own."""
    n: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    temperature: Finite | None = Field(None, ge=0, le=2)
    top_p: Finite | None = Field(None, gt=0, le=1)
    presence_penalty: Finite | None = Field(None, ge=-2, le=2)
    frequency_penalty: Finite | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[Finite, Field(ge=-100, le=100)]] | None = Field(None, max_length=BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | list[Stop] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def few(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > STOP_STRINGS:
            raise ValueError(f"{len(stop)} strings are more than {STOP_STRINGS}; leave some out")
        return stop

    @cached_property
    def dialogue(self) -> list[dict[str, Any]]:
        """Messages, as they are kept, counted and hashed."""
        raise NotImplementedError

    def for_engine(self, limits: LimitsConfig) -> dict[str, Any]:
        """The body that the engine gets; of a stream always with its usage, which is recorded."""
        body = self.model_dump(exclude_none=True, exclude={"user", "metadata", "stream_options"})
        body.setdefault("max_tokens", limits.max_tokens)
        return {**body, "stream_options": {"include_usage": True}} if self.stream else body

    @property
    def sampling(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude_unset=True, exclude=NO_SAMPLING)

    @property
    def prompt_hash(self) -> str:
        return digest(self.dialogue)

    @property
    def turn(self) -> int:
        return sum(message["role"] == "user" for message in self.dialogue)

    def conversation(self, user: str) -> str:
        """As the sender named it, or by its user and first turn."""
        named = (self.metadata or {}).get("conversation")
        roles = [message["role"] for message in self.dialogue]
        first = roles.index("user") if "user" in roles else len(roles) - 1
        return digest([user, named] if named else [user, self.dialogue[: first + 1]])


class AskedChat(Asked):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=LOGPROBS)

    @cached_property
    def dialogue(self) -> list[dict[str, Any]]:
        return [message.model_dump(exclude_none=True) for message in self.messages]


class AskedCompletion(Asked):
    prompt: str = Field(min_length=1)
    logprobs: int | None = Field(None, ge=0, le=LOGPROBS)
    echo: bool = False

    @cached_property
    def dialogue(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": self.prompt}]


class Said(Model):
    """Feedback: `serve.records.Feedback` says what each kind needs."""

    request_id: str
    kind: Annotated[FeedbackKind, Field(strict=False)]
    user: str | None = None
    choice: int = Field(0, ge=0)
    value: Finite | None = None
    text: str | None = None
    name: str | None = Field(None, max_length=64)


class Consent(Model):
    """Whether texts of a user may be kept."""

    user: str | None = None
    given: bool


class Start(Model):
    """A candidate."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    folder: str
    reason: str = ""


class Reason(Model):
    """Why an operator does what they do."""

    reason: str = ""


ASKED: dict[Endpoint, type[Asked]] = {Endpoint.chat: AskedChat, Endpoint.completion: AskedCompletion}


def read(raw: bytes, kind: type[ModelT]) -> ModelT:
    """A body as what it should be. Raises Refusal 400 with the field and what is wrong with it."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        unknown = first["type"] == "extra_forbidden"
        # A union's alternatives name themselves in the path; the reader knows fields and places alone.
        names = [part for part in first["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str")]
        path = ".".join(map(str, [*first["loc"]] if unknown else names))
        if first["type"] == "json_invalid":
            raise Refusal(400, f"the body is not JSON: {first['msg']}") from None
        if unknown:
            raise Refusal(400, f"{path}: there is no such field here; leave it out", param=path) from None
        raise Refusal(
            400, f"{path or 'body'}: {first['msg'].removeprefix('Value error, ')}", param=path or None
        ) from None


def check_limits(asked: Asked, limits: LimitsConfig) -> None:
    """Raises Refusal 400 where a request asks for more than it may."""
    tokens = getattr(asked, "max_completion_tokens", None) or asked.max_tokens or 0
    if tokens > limits.max_tokens:
        raise Refusal(400, f"max_tokens: {tokens} is more than {limits.max_tokens}; ask for less", param="max_tokens")
    if asked.n > limits.choices:
        raise Refusal(400, f"n: {asked.n} is more than {limits.choices}; ask for fewer", param="n")
    if len(asked.dialogue) > limits.messages:
        message = f"messages: {len(asked.dialogue)} are more than {limits.messages}; leave out the oldest"
        raise Refusal(400, message, param="messages")


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
