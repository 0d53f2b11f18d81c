"""The Serve application: `serve run serve.app:build output=FOLDER +models.one=FOLDER production=one`."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rlhf.config import compose
from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.control.controller import Controller
from serve.control.ray_adapter import is_token_auth_enabled, proxy_host
from serve.control.release_manager import ReleaseManager
from serve.gateway import routes
from serve.gateway.auth import hash_key, make_key, require_ray_auth, require_user_keys
from serve.gateway.engine import FAST, HEALTH_PERIOD_S
from serve.gateway.errors import ApiError
from serve.gateway.gateway import Gateway
from serve.gateway.http_server import run_http_server
from serve.gateway.log_redaction import redact_error_messages
from serve.gateway.metrics import RecordMetrics
from serve.gateway.reply import BROKEN, call_engine
from serve.store.database import migrate
from serve.store.records import Role
from serve.store.store import Store

CONF = Path(__file__).parent.parent / "conf"
APP = "rlhf-service"
OPERATOR_KEY = "operator.key"
HEAD_NODE = "node:__internal_head__"
"""Ray resource that only the head node has."""
SPARE_REQUESTS = 64
"""Requests that a gateway accepts beyond its limit, so that it refuses them itself."""


class GatewayReplica:
    """A gateway with its routes, in a replica. With `listens` it runs an HTTP server, otherwise it is behind Serve's
    proxies."""

    def __init__(self, config: ServeConfig, store_url: str, controller: DeploymentHandle, *, listens: bool) -> None:
        redact_error_messages()
        consent_by_default, outcomes = config.store.consent_by_default, config.release.outcomes
        postgres = config.store.postgres
        store = Store(store_url, consent_by_default=consent_by_default, outcomes=outcomes, postgres=postgres)
        self.listens = listens
        if not listens:
            # The address on which Serve really listens.
            config.http.host = proxy_host()
        require_user_keys(config.http.host, store.keys.all())
        require_ray_auth(config.http.host, authenticated=is_token_auth_enabled())
        self.controller = controller
        self.gateway = Gateway(config, store, call_engine, RecordMetrics().write)

    async def command(self, command: str, /, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] | InputError | RunError
        try:
            found = await self.controller.command.remote(command, arguments)
        except BROKEN as error:
            message = f"the release controller died in this command ({type(error).__name__}): check the status, retry"
            raise ApiError(503, message, retry_after_s=self.gateway.config.limits.retry_after_s) from None
        if isinstance(found, Exception):
            raise found
        return found

    def __serve_build_asgi_app__(self) -> ASGIApp:
        if not self.listens:
            return routes.build(self.gateway, self.command, send_ids=False)
        config = self.gateway.config
        listener = partial(
            run_http_server, http=config.http, headers_s=config.limits.body_s, drain_s=config.replicas.drain_s
        )
        return routes.build(self.gateway, self.command, listener=listener)


def build(arguments: dict[str, str]) -> Application:
    """Return the application for the keys of `ServeConfig`, as on the command line. Raises InputError."""
    words = [f"{key}={value}" for key, value in arguments.items()]
    return assemble(compose(CONF, "serve", words, ServeConfig), listens=False)


def assemble(config: ServeConfig, *, listens: bool) -> Application:
    """Return the application. `listens`: the gateways run HTTP servers on the head node, instead of Serve's proxies."""
    # Checked before any file is written or process started; a replica knows its cluster's mode, and checks again.
    require_ray_auth(config.http.host, authenticated=is_token_auth_enabled())
    url = prepare(config)
    # One attempt, as for engines: a model that does not start once would not start later.
    once = {"max_constructor_retry_count": 1}
    controller = ray_serve.deployment(Controller).options(name="controller", ray_actor_options={"num_cpus": 0}, **once)
    gateway = ray_serve.deployment(ray_serve.ingress()(GatewayReplica)).options(
        name="gateway",
        num_replicas=config.gateway_replicas,
        max_ongoing_requests=config.limits.ongoing_requests + SPARE_REQUESTS,
        graceful_shutdown_timeout_s=config.replicas.drain_s,
        health_check_period_s=HEALTH_PERIOD_S,
        ray_actor_options={
            "num_cpus": 0,
            "resources": {HEAD_NODE: 0.001} if listens else {},
            "runtime_env": {"env_vars": FAST},
        },
    )
    return gateway.bind(config, url, controller.bind(config, url), listens=listens)


def folder_of(config: ServeConfig) -> Path:
    return Path(config.output).expanduser().resolve()


def store_url(config: ServeConfig) -> str:
    return config.store.url or f"sqlite:///{folder_of(config) / 'store.sqlite'}"


def check_parsers_of(config: ServeConfig) -> None:
    """Raise InputError if vLLM lacks a parser, or a model does not fit one, before any engine starts."""
    if config.engine.tool_call_parser is None and config.engine.reasoning_parser is None:
        return
    # Imported here: it takes ten seconds.
    from rlhf.runtimes.vllm_parsers import check_parsers

    for folder in config.models.values():
        # Adapters have no parser, and a folder that is no model is refused at its registration.
        if (Path(folder).expanduser() / "config.json").is_file():
            check_parsers(folder, config.engine)


def prepare(config: ServeConfig) -> str:
    """Create the store with its tables, the configured models and an operator's key, which is written to the service's
    folder. Returns the store's URL."""
    check_parsers_of(config)
    folder, url = folder_of(config), store_url(config)
    folder.mkdir(0o700, parents=True, exist_ok=True)
    migrate(url, postgres=config.store.postgres)
    store = Store(url, postgres=config.store.postgres)
    try:
        if not any(key.role == Role.operator for key in store.keys.all()):
            key = make_key()
            with open(os.open(folder / OPERATOR_KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(key)
            store.keys.add(hash_key(key), Role.operator, "operator", time.time())
        ReleaseManager(store, config, time.time).bootstrap()
    finally:
        store.close()
    return url
