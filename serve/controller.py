"""The release controller as a Serve deployment: engines as the store wants them, and a look at every interval."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Set
from typing import Any

from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.schema import ApplicationStatus
from sqlalchemy.exc import SQLAlchemyError

from rlhf.types import InputError, RunError
from serve.database import reason
from serve.directions import Seat, seat, served
from serve.engine import app_name, application
from serve.gateway import REFRESH_S
from serve.records import Endpoint, Variant
from serve.release_desk import ReleaseDesk
from serve.settings import ServeConfig
from serve.store import Store

LOG = logging.getLogger(__name__)
COMMANDS = ("status", "start", "promote", "roll_back")


class Controller:
    """The only replica of its deployment. Where it dies Serve starts another, which goes on from the store."""

    async def __init__(self, config: ServeConfig, store_url: str) -> None:  # type: ignore[misc]
        """Returns once every model is served, so that the application is up when they are."""
        self.config = config
        self.store = Store(store_url, consent_by_default=config.store.consent_by_default)
        self.desk = ReleaseDesk(self.store, config, time.time)
        self.lock = asyncio.Lock()
        await asyncio.to_thread(self.reconcile)
        self.running = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.config.release.interval_s)
            try:
                # Without the lock: no command waits for it, and a release that one changes meanwhile is left as it is.
                judged = await asyncio.to_thread(self.desk.judge)
                async with self.lock:
                    transition = await asyncio.to_thread(self.desk.act, judged)
                    if transition is not None:
                        LOG.info("release %s: %s, as %s", transition.release, transition.after, transition.reason)
                    await asyncio.to_thread(self.reconcile)
            except (SQLAlchemyError, InputError, RunError) as error:
                LOG.error("this look came to nothing: %s", reason(error))

    async def check_health(self) -> None:
        """A loop that ended of an error is told, and Serve starts another replica."""
        if self.running.done():
            self.running.result()

    async def command(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any] | InputError | RunError:
        """What an operator asked for: the state after it, or why not. An error is returned, since Ray would wrap one
        that is raised."""
        assert name in COMMANDS, name
        if name == "status":
            # Without the lock, which a start holds for as long as the candidate's engines take.
            return await asyncio.to_thread(self.desk.status)
        async with self.lock:
            try:
                if name == "start":
                    await asyncio.to_thread(self.start, **arguments)
                else:
                    await asyncio.to_thread(getattr(self.desk, name), **arguments)
                    await asyncio.to_thread(self.reconcile)
                return await asyncio.to_thread(self.desk.status)
            except (InputError, RunError) as error:
                return error

    def start(self, name: str, folder: str, by: str, reason: str) -> None:
        """The candidate's engines run before its first step begins."""
        candidate = self.desk.check_start(name, folder)
        base = self.store.variant(candidate.base) if candidate.base else None
        self.reconcile(base or candidate)
        if base is not None:
            try_adapter(candidate, seat(candidate, {base.name: base}, self.config))
        self.desk.start(name, by, reason)

    def reconcile(self, coming: Variant | None = None) -> None:
        """Have engines for what is to be served, and none of those deployed for anything else."""
        variants = served(self.store, self.config, self.store.production(), self.store.latest_release())
        variants |= {coming.name: coming} if coming else {}
        engine, replicas = self.config.engine, self.config.replicas
        wanted = {app_name(one, engine, replicas): one for one in variants.values() if one.base is None}
        there = {app: found.status for app, found in serve.status().applications.items()}
        deployed = self.store.applications()
        for app in missing(there, wanted.keys()):
            self.store.add_application(app)
            deploy(app, wanted[app], self.config)
        if gone := surplus(there, deployed, wanted.keys()):
            # Until then gateways may still send requests there.
            time.sleep(2 * REFRESH_S)
        for app in gone:
            serve.delete(app)
        for app in deployed - wanted.keys():
            self.store.remove_application(app)


def missing(there: Mapping[str, ApplicationStatus], wanted: Set[str]) -> set[str]:
    """Applications to deploy. One whose engines all ended is deployed again: Serve itself would leave it."""
    return {app for app in wanted if there.get(app, ApplicationStatus.DEPLOY_FAILED) is ApplicationStatus.DEPLOY_FAILED}


def surplus(there: Mapping[str, ApplicationStatus], deployed: Set[str], wanted: Set[str]) -> set[str]:
    """Applications to delete: those that this service deployed and wants no more; whatever others run stays."""
    return {app for app in there if app in deployed and app not in wanted}


def deploy(app: str, variant: Variant, config: ServeConfig) -> None:
    """Raises InputError where vLLM does not serve the model."""
    try:
        serve.run(application(variant, config.engine, config.replicas), name=app, route_prefix=None)
    except RuntimeError as error:
        reason = why_not(app) or str(error)
        serve.delete(app)
        raise InputError(f"model {variant.name} in {variant.folder} does not start: {reason}") from error


def try_adapter(adapter: Variant, there: Seat) -> None:
    """Have it answer with one token. Raises InputError where its model's engines do not load it."""
    body = {"model": adapter.name, "prompt": [0], "max_tokens": 1}
    answers = serve.get_app_handle(there.app).options(stream=True).answer
    try:
        for status, answer in answers.remote(Endpoint.completion, body, f"try-{adapter.name}", there.adapter):
            if status != 200:
                raise InputError(f"adapter {adapter.name} in {adapter.folder}: {answer['error']['message']}")
    except RayTaskError as error:
        raise InputError(last_line(str(error.cause))) from None


def why_not(app: str) -> str:
    """What Serve says of an application that does not start; empty where it says nothing."""
    messages = [one.message for one in serve.status().applications[app].deployments.values()]
    return "; ".join(last_line(message) for message in messages if message.strip())


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason was given"
