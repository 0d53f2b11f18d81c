"""The Serve application: `serve run serve.app:build output=FOLDER +models.one=FOLDER production=one`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from rlhf.config import compose
from rlhf.types import InputError, RunError
from serve import routes
from serve.answering import BROKEN, call_engine
from serve.controller import Controller
from serve.database import migrate
from serve.doors import Refusal, Role, check_doors, hash_key, make_key
from serve.gateway import Gateway
from serve.release_desk import ReleaseDesk
from serve.settings import ServeConfig
from serve.store import Store

CONF = Path(__file__).parent.parent / "conf"
APP = "rlhf-service"
OPERATOR_KEY = "operator.key"
SPARE_REQUESTS = 64
"""A gateway takes so many more than it answers, to refuse them itself."""


class GatewayReplica:
    """A gateway with its routes, in a replica."""

    def __init__(self, config: ServeConfig, store_url: str, controller: DeploymentHandle) -> None:
        consent_by_default, outcomes = config.store.consent_by_default, config.release.outcomes
        store = Store(store_url, consent_by_default=consent_by_default, outcomes=outcomes)
        # Where Serve really listens, whatever was configured.
        config.doors.host = _get_global_client().http_config.host or "127.0.0.1"
        check_doors(config.doors.host, store.all_keys())
        self.controller = controller
        self.gateway = Gateway(config, store, call_engine)

    async def command(self, command: str, /, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] | InputError | RunError
        try:
            found = await self.controller.command.remote(command, arguments)
        except BROKEN as error:
            message = f"the release controller died over this ({type(error).__name__}): look at the status, try again"
            raise Refusal(503, message, retry_after_s=self.gateway.config.limits.retry_after_s) from None
        if isinstance(found, Exception):
            raise found
        return found

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return routes.build(self.gateway, self.command, send_ids=False)


def build(arguments: dict[str, str]) -> Application:
    """The service by the keys of `settings.ServeConfig`, as on the command line. Raises InputError."""
    return assemble(compose(CONF, "serve", [f"{key}={value}" for key, value in arguments.items()], ServeConfig))


def assemble(config: ServeConfig) -> Application:
    url = prepare(config)
    controller = serve.deployment(Controller).options(name="controller", ray_actor_options={"num_cpus": 0})
    gateway = serve.deployment(serve.ingress()(GatewayReplica)).options(
        name="gateway",
        num_replicas=config.gateway_replicas,
        max_ongoing_requests=config.limits.ongoing_requests + SPARE_REQUESTS,
        graceful_shutdown_timeout_s=config.replicas.drain_s,
        ray_actor_options={"num_cpus": 0},
    )
    return gateway.bind(config, url, controller.bind(config, url))


def folder_of(config: ServeConfig) -> Path:
    return Path(config.output).expanduser().resolve()


def store_url(config: ServeConfig) -> str:
    return config.store.url or f"sqlite:///{folder_of(config) / 'store.sqlite'}"


def prepare(config: ServeConfig) -> str:
    """The store's URL, with tables, the configured models and an operator's key in it; the key itself in the service's
    folder."""
    folder, url = folder_of(config), store_url(config)
    folder.mkdir(0o700, parents=True, exist_ok=True)
    migrate(url)
    store = Store(url)
    try:
        if not any(key.role == Role.operator for key in store.all_keys()):
            key = make_key()
            with open(os.open(folder / OPERATOR_KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(key)
            store.add_key(hash_key(key), Role.operator, "operator", time.time())
        ReleaseDesk(store, config, time.time).open_shop()
    finally:
        store.close()
    return url
