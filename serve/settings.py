"""What can be configured in serving. Imports neither Ray nor vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from omegaconf import MISSING

from rlhf.runtimes.base import ServerConfig
from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class ReplicasConfig:
    """How many engines a model has."""

    min: int = 1
    """Of a model that nobody asks."""
    max: int = 1
    """What it may grow to."""
    target_ongoing_requests: int = 32
    """Requests under way per engine that autoscaling aims at."""
    drain_s: float = 60.0
    """What one that is to go may take to finish its requests."""

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max:
            raise InputError(
                f"replicas.min={self.min}, replicas.max={self.max}: give at least 1, and a maximum not below it"
            )


@dataclass(kw_only=True, slots=True)
class LimitsConfig:
    """What one request may ask for, and how many may be under way. Beyond them: 4xx with a sentence."""

    body_bytes: int = 1 << 20
    """Size of a request's body."""
    max_tokens: int = 1024
    """Of a completion; what a request gets that names none."""
    choices: int = 4
    """`n`: completions of one request."""
    messages: int = 256
    """Messages of a chat request."""
    ongoing_requests: int = 256
    """Requests under way in one gateway replica; the next gets 429 with Retry-After."""
    retry_after_s: int = 1
    """Seconds that a refused client is told to wait."""
    attempts: int = 4
    """Tries of a request whose engine died before its first byte."""
    timeout_s: float = 600.0
    """Longest that a request may take."""


@dataclass(kw_only=True, slots=True)
class StoreConfig:
    """Where requests, feedback and releases are kept."""

    url: str | None = None
    """SQLAlchemy URL: `postgresql+pg8000://user@host/name`, needed where several nodes serve. None: SQLite in the
    service's folder."""
    consent_by_default: bool = False
    """Whether texts of users are kept who were not asked. Without consent only counts and times are."""


@dataclass(kw_only=True, slots=True)
class DoorsConfig:
    """Where the service listens. Elsewhere than on loopback it does so with keys alone."""

    host: str = "127.0.0.1"
    """Address of the HTTP proxies."""
    port: int = 8000
    """Their port."""


class Test(StrEnum):
    """How the goal metric is tested."""

    sequential = "sequential"
    """Always valid: looked at as often as one likes."""
    fixed = "fixed"
    """Welch's t-test, looked at once `users_per_arm` are there."""


@dataclass(kw_only=True, slots=True)
class GoalConfig:
    """What the candidate is to be better at."""

    metric: str = "thumbs"
    """`thumbs`, `rating`, `edits`, `regenerations`, `turns`, `retention`, or `outcome:NAME`."""
    higher_is_better: bool = True
    """Of edits and regenerations fewer are better."""
    low: float = 0.0
    """Least value a user can have; lower ones are taken as this."""
    high: float = 1.0
    """Greatest value a user can have."""
    alpha: float = 0.05
    """Probability of seeing a difference where there is none."""
    test: Test = Test.sequential
    """How it is tested."""
    min_users: int = 100
    """Users with a value that each arm needs before a step is passed."""
    users_per_arm: int | None = None
    """The fixed test's horizon: `serve/release.py power` computes it."""


@dataclass(kw_only=True, slots=True)
class GuardrailConfig:
    """What must not become worse. Exactly one limit is set."""

    metric: str = MISSING
    """A goal's metric, or of single requests: `error_rate`, `latency_p95_s`, `latency_p99_s`, `first_token_p95_s`,
    `completion_tokens`."""
    at_most: float | None = None
    """The candidate's own value."""
    at_least: float | None = None
    """The candidate's own value."""
    at_most_ratio: float | None = None
    """Of the predecessor's value."""
    worse_by: float | None = None
    """More than the predecessor's value by this; with `higher_is_better` less."""
    higher_is_better: bool = False
    """Whether worse means lower."""
    low: float = 0.0
    """Least value of one user or request; lower ones are taken as this."""
    high: float = 1.0
    """Greatest value of one user or request. Of quantiles it means nothing."""
    min_samples: int = 100
    """Users or requests of the candidate without which no step is passed."""
    alpha: float = 0.01
    """Probability of a false alarm during a step."""


@dataclass(kw_only=True, slots=True)
class ReleaseConfig:
    """How a candidate becomes what is served: shadow, then canary steps, then promoted."""

    shadow_fraction: float = 1.0
    """Of requests, also answered by the candidate where nobody sees it. 0: the shadow step is left out."""
    shadow_requests: int = 200
    """Of them, before the first users see the candidate."""
    steps: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.25, 0.5])
    """Users that see the candidate, step by step."""
    interval_s: float = 60.0
    """Between two looks."""
    min_step_s: float = 3600.0
    """A step's least duration."""
    max_step_s: float = 14 * 86400.0
    """A step that has not been decided by then is inconclusive, and waits for a person."""
    observation_s: float = 86400.0
    """What a user does counts for this long after first being shown an arm; then the user's value enters the test,
    once."""
    retention_after_s: float = 3600.0
    """A request this long after the first one of a step makes the user retained."""
    allow: list[str] = field(default_factory=list)
    """Users who always see the candidate; they are not part of the experiment."""
    deny: list[str] = field(default_factory=list)
    """Users who never do."""
    goal: GoalConfig = field(default_factory=GoalConfig)
    """What the candidate is to be better at."""
    guardrails: dict[str, GuardrailConfig] = field(default_factory=dict)
    """What must not become worse, by a name of one's own."""


@dataclass(kw_only=True, slots=True)
class ServeConfig:
    """The service: `launch/serve.py` and `serve.app:build`."""

    output: str = MISSING
    """Folder of the service: its store and its operator's key."""
    name: str = "assistant"
    """The model name that users ask for; which variant answers is decided per user."""
    models: dict[str, str] = field(default_factory=dict)
    """Folders by name: whole models, or LoRA adapters of one of them. All are served, each also under its name."""
    production: str = MISSING
    """The model that answers at first. Later ones become it by a release, which the store remembers."""
    gateway_replicas: int = 1
    """Processes that check, split and record requests."""
    engine: ServerConfig = field(default_factory=ServerConfig)
    """Every model has engines of its own, made like this."""
    replicas: ReplicasConfig = field(default_factory=ReplicasConfig)
    """How many."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What a request may ask for."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Where things are kept."""
    doors: DoorsConfig = field(default_factory=DoorsConfig)
    """Where it listens."""
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    """How a candidate is decided about."""
