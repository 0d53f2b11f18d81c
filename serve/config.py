"""Configuration of serving. Imports neither Ray nor vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from rlhf.runtimes.configs import ServerConfig
from rlhf.types import InputError
from serve.releases.config import ReleaseConfig
from serve.store.postgres import PostgresConfig


@dataclass(kw_only=True, slots=True)
class ReplicasConfig:
    """Number of engines per model, and how they start and drain."""

    min: int = 1
    """Replicas kept for an idle model."""
    max: int = 1
    """Most replicas that autoscaling starts."""
    target_ongoing_requests: int = 32
    """Requests under way per engine that autoscaling aims at."""
    drain_s: float = 60.0
    """Seconds a retiring replica may take to drain."""
    start_s: float = 1800.0
    """Seconds within which the engines of a model have to answer. A start that takes longer is ended, and refused."""
    call_s: float = 60.0
    """Seconds within which Ray Serve has to take or delete an application or to give its status, and an adapter to
    answer with its first token."""
    memory_bytes: int = 0
    """Memory that an engine reserves of what Ray counts on its node, beside a CPU or its accelerators; 0: none."""
    wait_for_nodes: bool = False
    """A candidate without room waits, up to `start_s`, for a node that the cluster adds by itself. `false`
    refuses its release at once, naming what is needed and what is free."""

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.max:
            raise InputError(
                f"replicas.min={self.min}, replicas.max={self.max}: give at least 1, and a maximum not below it"
            )
        if min(self.start_s, self.call_s) <= 0:
            raise InputError(
                f"replicas.start_s={self.start_s:g}, replicas.call_s={self.call_s:g}: give seconds, above 0"
            )


@dataclass(kw_only=True, slots=True)
class LimitsConfig:
    """Limits of one request, and of requests in progress. Beyond them: 4xx with a sentence."""

    body_bytes: int = 1 << 20
    """Size of a request's body."""
    max_tokens: int = 1024
    """Most tokens of a completion, and the default of a request that names none."""
    choices: int = 4
    """`n`: completions of one request."""
    prompts: int = 32
    """Completions of a request that has several prompts: prompts times `n`."""
    messages: int = 256
    """Messages of a chat request."""
    ongoing_requests: int = 256
    """Requests under way in one gateway replica; the next gets 429 with Retry-After."""
    retry_after_s: int = 1
    """Seconds to wait in the Retry-After header of a refused request."""
    attempts: int = 4
    """Tries of a request whose engine died before its first byte."""
    timeout_s: float = 600.0
    """Longest that a request may take."""
    body_s: float = 30.0
    """Seconds within which a request's headers have to be there, and then its body; and after which a client that takes
    nothing of a stream counts as gone."""
    unread_bodies: int = 32
    """Bodies of one key's owner, and of one address, that may take longer than a second at a time in one gateway
    replica. Further ones get 408, so that half-sent requests shut nobody out."""


@dataclass(kw_only=True, slots=True)
class StoreConfig:
    """The store of requests, feedback and releases."""

    url: str | None = None
    """SQLAlchemy URL: `postgresql+pg8000://user@host/name`, needed where several nodes serve. None: SQLite in the
    service's folder."""
    consent_by_default: bool = False
    """Keep texts of users who were not asked. Without consent numbers, times, salted hashes
    and the names of outcomes that metrics read are."""
    patience_s: float = 1.0
    """Seconds that an answer waits for its record, so that feedback finds it; a slow store delays none for longer."""
    postgres: PostgresConfig = field(default_factory=PostgresConfig)
    """Timeouts and connections of PostgreSQL."""


@dataclass(kw_only=True, slots=True)
class HttpConfig:
    """The HTTP server. Binding beyond loopback requires API keys."""

    host: str = "127.0.0.1"
    """Address of the gateways that `launch/serve.py` starts. With `serve run` and `serve deploy` Serve's proxies have
    one, and a port, of their own."""
    port: int = 8000
    """Port of the gateways."""
    names: list[str] = field(default_factory=list)
    """Further names that requests may give as their Host while the service listens on loopback, as a reverse proxy on
    this machine passes them on. Requests with any name but these and loopback's are refused there."""


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
    """Processes that check, split and record requests. Of two, one that dies is missed by the requests it had alone."""
    engine: ServerConfig = field(default_factory=ServerConfig)
    """Every model has engines of its own, made like this."""
    replicas: ReplicasConfig = field(default_factory=ReplicasConfig)
    """Number of engines per model."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Limits of requests."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """The store."""
    http: HttpConfig = field(default_factory=HttpConfig)
    """The HTTP server."""
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    """Rules by which a candidate is decided about."""


ConfigStore.instance().store(name="serve_schema", node=ServeConfig)
