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
    """Number of engines per model, and limits of their start and end."""

    min: int = 1
    """Replicas kept for an idle model."""
    max: int = 1
    """Largest number of replicas that autoscaling starts."""
    target_ongoing_requests: int = 32
    """Requests in progress per engine that autoscaling aims at."""
    drain_s: float = 60.0
    """Seconds a retiring replica may take to drain."""
    start_s: float = 1800.0
    """Seconds within which the engines of a model must answer. A slower start is cancelled, and the model refused."""
    call_s: float = 60.0
    """Seconds within which Ray Serve must accept or delete an application or return its status, and within which an
    adapter must return its first token."""
    memory_bytes: int = 0
    """Memory that an engine reserves in Ray on its node, in addition to a CPU or its accelerators; 0: none."""
    wait_for_nodes: bool = False
    """True: a candidate without free resources waits, up to `start_s`, for a node that the cluster adds automatically.
    False: its release is refused at once, with the required and the free resources."""

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
    """Limits of one request, and of requests in progress. Requests beyond them get 4xx with a sentence."""

    body_bytes: int = 1 << 20
    """Largest size of a request's body."""
    max_tokens: int = 1024
    """Largest number of tokens of a completion, and the default for requests without one."""
    choices: int = 4
    """Largest `n`, the completions of one request."""
    prompts: int = 32
    """Largest number of completions of a request with several prompts: prompts times `n`."""
    messages: int = 256
    """Largest number of messages of a chat request."""
    ongoing_requests: int = 256
    """Largest number of requests in progress in one gateway replica; the next gets 429 with Retry-After."""
    retry_after_s: int = 1
    """Seconds to wait in the Retry-After header of a refused request."""
    attempts: int = 4
    """Attempts at a request whose engine died before its first byte."""
    timeout_s: float = 600.0
    """Longest duration of a request, in seconds."""
    body_s: float = 30.0
    """Seconds within which a request's headers, and then its body, must arrive; and after which a client that reads
    nothing of a stream counts as disconnected."""
    unread_bodies: int = 32
    """Largest number of concurrent bodies slower than a second, per owner of keys and per address, in one gateway
    replica. Further ones get 408, so that half-sent requests do not block other clients."""


@dataclass(kw_only=True, slots=True)
class StoreConfig:
    """The store of requests, feedback and releases."""

    url: str | None = None
    """SQLAlchemy URL: `postgresql+pg8000://user@host/name`, required if several nodes serve. None: SQLite in the
    service's folder."""
    consent_by_default: bool = False
    """Keep texts of users who have not stated their consent. Without consent only numbers, times, salted hashes and the
    names of outcomes that metrics read are kept."""
    patience_s: float = 1.0
    """Seconds that an answer waits for its record, so that feedback finds it; a slow store delays no answer longer."""
    postgres: PostgresConfig = field(default_factory=PostgresConfig)
    """Timeouts and connections of PostgreSQL."""


@dataclass(kw_only=True, slots=True)
class HttpConfig:
    """The HTTP server. Binding beyond loopback requires API keys."""

    host: str = "127.0.0.1"
    """Address of the gateways that `launch/serve.py` starts. With `serve run` and `serve deploy`, Serve's proxies have
    their own address and port."""
    port: int = 8000
    """Port of the gateways."""
    names: list[str] = field(default_factory=list)
    """Further Host names of requests that are accepted while the service listens on loopback, such as those that a
    reverse proxy on this machine forwards. Other names than these and loopback's are refused."""


@dataclass(kw_only=True, slots=True)
class ServeConfig:
    """The service: `launch/serve.py` and `serve.app:build`."""

    output: str = MISSING
    """Folder of the service: its store and its operator's key."""
    name: str = "assistant"
    """The model name in users' requests; the variant that answers is chosen per user."""
    models: dict[str, str] = field(default_factory=dict)
    """Folders by name, `+models.NAME=FOLDER`: whole models, or LoRA adapters of one of them. All are served, each also
    under its own name."""
    production: str = MISSING
    """The model in production at the first start. Later releases replace it; the store keeps the current one."""
    gateway_replicas: int = 1
    """Number of processes that check, route and record requests. With two, the death of one affects only its
    requests in progress."""
    engine: ServerConfig = field(default_factory=ServerConfig)
    """Settings of the engines; every model has its own engines."""
    replicas: ReplicasConfig = field(default_factory=ReplicasConfig)
    """Number of engines per model."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """Limits of requests."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """The store."""
    http: HttpConfig = field(default_factory=HttpConfig)
    """The HTTP server."""
    release: ReleaseConfig = field(default_factory=ReleaseConfig)
    """Rules for deciding about a candidate."""


ConfigStore.instance().store(name="serve_schema", node=ServeConfig)
