"""The release controller as a Serve deployment: engines as the store wants them, and a look at every interval."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.control.candidate_start import CandidateStart
from serve.control.engines import EngineManager, ServeBackend
from serve.control.ray_adapter import RayServeBackend
from serve.control.release_manager import ReleaseManager
from serve.store.database import reason
from serve.store.release_records import Phase
from serve.store.store import Store

LOG = logging.getLogger(__name__)
COMMANDS = ("status", "start", "promote", "roll_back")


class Controller:
    """The only replica of its deployment. If it dies, Serve starts another, which continues from the store."""

    async def __init__(  # type: ignore[misc]
        self, config: ServeConfig, store_url: str, connect: Callable[[ServeConfig], ServeBackend] = RayServeBackend
    ) -> None:
        """Serve every model before the replica counts as started, so that the application is up once they are."""
        self.config = config
        self.store = Store(
            store_url, consent_by_default=config.store.consent_by_default, postgres=config.store.postgres
        )
        self.manager = ReleaseManager(self.store, config, time.time)
        self.engines = EngineManager(self.store, config, connect(config))
        self.starting: CandidateStart | None = None
        self.lock = asyncio.Lock()
        await asyncio.to_thread(self.engines.bring_all_up)
        self.running = asyncio.create_task(self.run())

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.config.release.interval_s)
            try:
                # Without the lock: no command waits for it, and a release that one changes meanwhile is left as it is.
                judgement = await asyncio.to_thread(self.manager.judge)
                async with self.lock:
                    transition = await asyncio.to_thread(self.manager.act, judgement)
                    if transition is not None:
                        LOG.info("release %s: %s, as %s", transition.release, transition.after, transition.reason)
                    await self.reconcile()
            except (SQLAlchemyError, InputError, RunError) as error:
                LOG.error("this look came to nothing: %s", reason(error))

    async def reconcile(self) -> None:
        """Have engines as the store wants them; those of a candidate that starts are left alone."""
        starting = self.starting.host if self.starting else None
        await asyncio.to_thread(self.engines.reconcile, starting=starting)

    async def check_health(self) -> None:
        """Fail the health check if the control loop crashed, so that Serve restarts it."""
        if self.running.done():
            self.running.result()

    async def command(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any] | InputError | RunError:
        """Run an operator's command; return the state after it, or the error, since Ray would wrap a raised one.

        The command continues if the operator's client disconnects.
        """
        assert name in COMMANDS, name
        return await asyncio.shield(asyncio.create_task(self.obey(name, arguments)))

    async def obey(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any] | InputError | RunError:
        starting = self.starting
        try:
            if name == "roll_back" and starting and not starting.begun:
                # Nothing else changes: the release before is over, or has its own rollback.
                starting.cancel(arguments["by"])
                return {**await self.status(), "starting": starting.describe()}
            if name != "status":
                await getattr(self, name)(**arguments)
            return await self.status()
        except (InputError, RunError) as error:
            return error

    async def status(self) -> dict[str, Any]:
        """Answer without waiting for a look or a start."""
        found = await asyncio.to_thread(self.manager.status)
        return {**found, "starting": self.starting.describe() if self.starting else None}

    async def start(self, name: str, folder: str, by: str, reason: str) -> None:
        """The candidate's engines run before its first step begins. Looks and commands continue meanwhile."""
        if self.starting:
            raise InputError(f"{self.starting}: wait for its release, or cancel it by a rollback")
        self.starting = starting = CandidateStart(name, folder)
        try:
            await asyncio.to_thread(self.bring_up, starting)
            async with self.lock:
                starting.check()
                starting.begun = True
                await asyncio.to_thread(self.manager.start, name, by, reason)
        finally:
            self.starting = None
            async with self.lock:
                await self.tidy()

    def bring_up(self, starting: CandidateStart) -> None:
        candidate = self.manager.check_start(starting.name, starting.folder)
        starting.check()
        starting.host = self.engines.host(candidate)
        self.engines.bring_up(candidate, starting.check)

    async def tidy(self) -> None:
        """End engines that nobody wants any more; the next look tries again where this fails."""
        try:
            await self.reconcile()
        except (SQLAlchemyError, RunError) as error:
            LOG.error("engines are not as they should be: %s", reason(error))

    async def promote(self, by: str, reason: str) -> None:
        if self.starting:
            raise InputError(f"{self.starting}: promote it once its release has begun, or cancel it by a rollback")
        async with self.lock:
            await asyncio.to_thread(self.manager.promote, by, reason)
            await self.tidy()

    async def roll_back(self, by: str, reason: str) -> None:
        async with self.lock:
            release = await asyncio.to_thread(self.manager.latest)
            if release and release.phase is Phase.promoted and not release.warm:
                # Its engines were given up for a candidate that did not come to a release.
                predecessor = self.store.variants.get(release.predecessor)
                assert predecessor is not None
                await asyncio.to_thread(self.engines.bring_up, predecessor, lambda: None)
            await asyncio.to_thread(self.manager.roll_back, by, reason)
            await self.tidy()
