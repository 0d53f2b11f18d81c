"""Configuration of endpoints, and of a judge behind one; import-light."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from rlhf.paths import is_http
from rlhf.types import InputError

RUBRIC = (
    "How well does the answer do what the user asks? Consider whether it is correct, complete, relevant and clear. "
    "Length alone is no merit."
)


class ResponseFormat(StrEnum):
    """Structured output to request, by the names of OpenAI's protocol."""

    json_schema = "json_schema"
    json_object = "json_object"
    text = "text"


@dataclass(kw_only=True, slots=True)
class EndpointConfig:
    """A model behind an OpenAI-compatible endpoint, and the limits of requests to it."""

    KEY: ClassVar[str] = "endpoint"
    """Key of the endpoint in the configuration, for messages."""
    NAME: ClassVar[str] = "endpoint"
    """The endpoint in a sentence."""

    url: str | None = None
    """Address of the server with its version, as `http://HOST:8000/v1`; requests go to `/chat/completions` and
    `/completions` below it. None: no server."""
    model: str | None = None
    """Name of the model on that server."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key, where the command is started; the key itself is written
    nowhere. None: no key."""
    concurrency: int = 16
    """Requests in flight, over the whole run."""
    requests_per_minute: float | None = None
    """Largest rate of requests, over the whole run. None: no limit."""
    timeout_s: float = 60.0
    """Seconds that the server may take for one request."""
    max_attempts: int = 5
    """Attempts per request, while it times out or fails by an error of the server or the network."""
    backoff_s: float = 1.0
    """Seconds before the second attempt. They double for each further one, and a random part of up to half is
    subtracted; the wait that a server states (`Retry-After`) replaces them, for all requests."""
    max_wait_s: float = 120.0
    """Longest wait before another attempt, in seconds. A server that states a longer one counts as failed."""
    prompt_price: float = 0.0
    """Price of a million prompt tokens, in any currency."""
    completion_price: float = 0.0
    """Price of a million generated tokens, in the same currency."""
    max_cost: float | None = None
    """Budget of the run, in the currency of the prices; the run stops before a request that may exceed it. None: no
    limit."""
    max_requests: int | None = None
    """Requests of the run, attempts included, before it stops. None: no limit."""

    def __post_init__(self) -> None:
        if self.url is None:
            return
        key = self.KEY
        if not is_http(self.url):
            raise InputError(f"{key}.url={self.url}: give an address such as http://host:8000/v1")
        if "@" in urlsplit(self.url).netloc:
            raise InputError(
                f"{key}.url holds a user or a password, which the run's folder would keep: name the environment "
                f"variable of an API key in {key}.api_key_env"
            )
        if urlsplit(self.url).query or urlsplit(self.url).fragment:
            raise InputError(
                f"{key}.url has a part after ? or #, where requests cannot have their path: end it with the "
                f"version, as http://host:8000/v1, and name the environment variable of an API key in {key}.api_key_env"
            )
        if not self.model:
            raise InputError(f"{key}.url={self.url}: set {key}.model to a model of that server")
        self.check_numbers()

    def check_numbers(self) -> None:
        for name in ("concurrency", "max_attempts", "max_requests"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{self.KEY}.{name}={value}: give at least 1")
        for name in ("requests_per_minute", "timeout_s", "backoff_s", "max_wait_s", "max_cost"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise InputError(f"{self.KEY}.{name}={value}: give a positive number")
        for name in ("prompt_price", "completion_price"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{self.KEY}.{name}={getattr(self, name)}: give 0 or more")
        if self.max_cost is not None and not self.prompt_price + self.completion_price:
            raise InputError(
                f"{self.KEY}.max_cost={self.max_cost}: nothing has a price; set {self.KEY}.prompt_price and "
                f"{self.KEY}.completion_price, or bound {self.KEY}.max_requests"
            )

    def api_key(self) -> SecretStr | None:
        """Return the key from the environment of this process. Raises InputError if it is missing."""
        if self.api_key_env is None:
            return None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env):
            # It may be a key, so it is not repeated.
            raise InputError(
                f"{self.KEY}.api_key_env is not the name of an environment variable: give the name, not a key"
            )
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise InputError(
                f"{self.KEY}.api_key_env={self.api_key_env}: this environment variable is not set; export the "
                f"{self.NAME}'s API key in it"
            )
        return SecretStr(key)


@dataclass(kw_only=True, slots=True)
class JudgeConfig(EndpointConfig):
    """A language model behind an OpenAI-compatible chat endpoint that rates answers by a rubric."""

    KEY: ClassVar[str] = "reward.judge"
    NAME: ClassVar[str] = "judge"

    rubric: str = RUBRIC
    """Question that the rating answers."""
    lowest: int = 1
    """Worst rating, which becomes the score 0."""
    highest: int = 5
    """Best rating, which becomes the score 1."""
    shows_reference: bool = False
    """Show the judge the row's answer (`data.answer_key`) as the reference."""
    temperature: float | None = 0.0
    """Temperature of the judge. None: the server's default, for models that accept no other."""
    max_tokens: int = 1024
    """Tokens that the judge may generate for one rating, its reasoning included."""
    response_format: ResponseFormat = ResponseFormat.json_schema
    """`json_schema`: the server lets the judge write nothing but a reason and a rating. `json_object` and `text` are
    for servers without it. Replies are parsed equally strictly."""

    def __post_init__(self) -> None:
        EndpointConfig.__post_init__(self)
        if self.url is None:
            return
        if not self.rubric.strip():
            raise InputError(f"reward.judge.url={self.url}: set reward.judge.rubric to a question")
        if self.max_tokens < 1:
            raise InputError(f"reward.judge.max_tokens={self.max_tokens}: give at least 1")
        if self.lowest >= self.highest:
            raise InputError(
                f"reward.judge.lowest={self.lowest}, reward.judge.highest={self.highest}: give the lower one first"
            )
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InputError(f"reward.judge.temperature={self.temperature}: give 0 or more, or null")
