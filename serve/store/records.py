"""Records of the store: requests, responses, feedback, exposures, variants and keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Endpoint(StrEnum):
    """The route of a request."""

    chat = "chat"
    completion = "completion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One completion of a request."""

    index: int
    text: str | None
    """Text of the response; None without consent."""
    finish_reason: str | None
    num_tokens: int | None
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    """Functions that it calls, each with its arguments, as a message has them. None without any, or without consent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request and how it was answered."""

    id: str
    """The response's `id`; feedback names it."""
    user: str
    at: float
    """Unix seconds at which it arrived."""
    endpoint: Endpoint
    variant: str
    """Name of the model that answered."""
    version: str
    """sha256 of that model's files."""
    experiment: str | None = None
    """The step of a release it was part of. None: outside of any, or by a user on a list."""
    shadow_of: str | None = None
    """The request whose copy this is: nobody saw the answer."""
    conversation: str
    turn: int
    """User messages in it, this one included."""
    prompt_hash: str
    """Salted hash of all prompts, tools and the answer's form: a user who sends the same again has regenerated."""
    messages: Sequence[Mapping[str, Any]] | None
    """Messages (a completion's prompts as user messages). None without consent, and for token ids."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters of the request, such as temperature."""
    status: int
    """HTTP status."""
    error: str | None = None
    prompt_tokens: int | None = None
    latency_s: float
    """Seconds to the last byte."""
    first_token_s: float | None = None
    """Seconds to the first token; None unless streamed."""
    responses: Sequence[Response] = ()


class FeedbackKind(StrEnum):
    """Kind of a user's reaction to an answer."""

    thumb = "thumb"
    """`value` 1 or -1."""
    rating = "rating"
    """`value` from 1 to 5."""
    edit = "edit"
    """`text` is the answer as it should have been."""
    chosen = "chosen"
    """`choice` is the answer preferred to the request's others."""
    outcome = "outcome"
    """Any event by `name`, with a `value`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One piece of a user's feedback on an answer."""

    id: str
    request_id: str
    user: str
    at: float
    """Unix seconds."""
    kind: FeedbackKind
    choice: int = 0
    """Index of the response it is about."""
    value: float | None = None
    text: str | None = None
    name: str | None = None
    """An outcome's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """The first time that an experiment showed a user an arm."""

    experiment: str
    user: str
    variant: str
    at: float
    """Unix seconds."""
    weights: Mapping[str, float]
    """Probability of every arm at that moment."""
    salt: str
    """Salt of the draw of the user's arm."""
    owner: str = ""
    """Owner of the key that named the user; empty without keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRequest:
    """The request fields that metrics read."""

    id: str
    user: str
    variant: str
    at: float
    shadow_of: str | None
    """Id of the request that it copies."""
    conversation: str
    turn: int
    prompt_hash: str
    """Hash of the prompt, as in `Request`."""
    status: int
    latency_s: float
    first_token_s: float | None
    completion_tokens: int | None
    """Tokens of all its responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """All that one experiment has seen so far, each in order of time."""

    exposures: Sequence[Exposure] = ()
    requests: Sequence[ObservedRequest] = ()
    feedback: Sequence[Feedback] = ()
    """Feedback without texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A model that is or was served."""

    name: str
    folder: str
    base: str | None = None
    """The variant whose engines hold this adapter; None for a whole model."""
    files: Mapping[str, Mapping[str, Any]]
    """Size and sha256 of every file when it was registered."""
    version: str
    """sha256 over `files`."""
    at: float
    """Unix seconds at which it was registered."""


class Role(StrEnum):
    """Role of an API key."""

    user = "user"
    """Asking, and feedback on one's own answers."""
    operator = "operator"
    """Releases, keys and deletion too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key; its own text is nowhere."""

    hash: str
    role: str
    owner: str
    at: float
    """Unix seconds at which it was made."""
    users: int | None = None
    """Most users of its owner who take part in one step of a release; None: all."""
