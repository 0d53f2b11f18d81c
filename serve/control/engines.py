"""Engines as Serve applications: start the ones that are wanted, end the others, and check that there is room."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from rlhf.types import InputError, RunError
from serve.config import ServeConfig
from serve.gateway.engine import app_name, demand
from serve.gateway.gateway import REFRESH_S
from serve.gateway.routing import Deployment, deployment_of, served_variants
from serve.store.records import Variant
from serve.store.store import Store

LOG = logging.getLogger(__name__)
POLL_S = 0.5
"""Seconds between two looks at engines that start."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationState:
    """A Serve application, as Serve describes it."""

    status: ApplicationStatus
    num_engines: int
    """Replicas that run or start."""
    problem: str = ""
    """Reason why replicas do not start; empty if Serve names none."""


class ServeBackend(Protocol):
    """Ray and Ray Serve, as far as engines need them. A call blocks for as long as they do not answer."""

    def applications(self) -> Mapping[str, ApplicationState]: ...

    def deploy(self, app: str, variant: Variant) -> None:
        """Begin to start a model's engines; returns before they run."""

    def delete(self, app: str) -> None:
        """Begin to end them."""

    def accelerated(self) -> bool:
        """True if engines compute on accelerators."""

    def free(self) -> Sequence[Mapping[str, float]]:
        """Resources of each node that nothing has reserved."""

    def first_answer(self, deployment: Deployment, body: Mapping[str, Any], request_id: str) -> tuple[int, Any]:
        """Status and body of a completion by a deployment. Raises InputError if its engines do not load it."""


def call_with_timeout(seconds: float, what: str, call: Callable[[], ResultT]) -> ResultT:
    """Return what a blocking call of Serve returns. Raises RunError if it fails, or takes longer than `seconds`: its
    thread then waits on alone."""
    result: Future[ResultT] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised again below
            result.set_exception(error)

    threading.Thread(target=work, daemon=True, name=what).start()
    try:
        return result.result(seconds)
    except TimeoutError:
        problem = f"no answer within {seconds:g} s"
    except (RayError, RayServeException) as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise RunError(f"Ray Serve did not {what} ({problem}); see its log, and try again")


@dataclass(slots=True)
class EngineManager:
    """Threads may share it."""

    store: Store
    config: ServeConfig
    backend: ServeBackend
    settle_s: float = 2 * REFRESH_S
    """Seconds until gateways send nothing to engines that the store does not name any more."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """One at a time compares what runs with what is to run: deploying an application twice would restart it."""

    def reconcile(self, coming: Variant | None = None, *, starting: Variant | None = None) -> None:
        """Begin to start the engines of what is served and of `coming`, and to end all others of this service.

        Those of `starting` stay as they are: somebody else starts them.
        """
        with self.turn:
            wanted, there, deployed = self.wanted_models(coming), self.applications(), self.store.applications.names()
            if starting:
                deployed -= {self.name(starting)} - wanted.keys()
            for app in sorted(missing(there, wanted.keys())):
                self.store.applications.add(app)
                self.call("deploy an application", partial(self.backend.deploy, app, wanted[app]))
            if gone := surplus(there, deployed, wanted.keys()):
                time.sleep(self.settle_s)
            for app in sorted(gone):
                self.call("delete an application", partial(self.backend.delete, app))
            for app in deployed - wanted.keys() - there.keys():
                self.store.applications.remove(app)

    def bring_all_up(self) -> None:
        """Return once the engines of all that is served answer. Raises as `bring_up` does."""
        for host in self.wanted_models().values():
            self.bring_up(host, lambda: None)

    def bring_up(self, coming: Variant, check: Callable[[], None]) -> None:
        """Return once a model's engines answer.

        `check` is called while they start, and raises where they are not needed any more. Raises InputError if vLLM
        does not serve the model, RunError if there is no room for it or it takes longer than `replicas.start_s`.
        """
        host = self.host(coming)
        self.make_room(host)
        self.reconcile(host)
        self.wait(host, check)
        if host is not coming:
            self.try_adapter(coming, deployment_of(coming, {host.name: host}, self.config))

    def host(self, variant: Variant) -> Variant:
        """The variant whose engines answer for this one."""
        base = self.store.variants.get(variant.base) if variant.base else None
        return base or variant

    def wait(self, variant: Variant, check: Callable[[], None]) -> None:
        """Return once engines of a whole model run."""
        app, seconds = self.name(variant), self.config.replicas.start_s
        failed = f"model {variant.name} in {variant.folder} does not start"
        deadline, problem = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            check()
            try:
                found = self.applications().get(app)
            except RunError as error:  # Serve's controller is started again where it dies
                problem = str(error)
            else:
                problem = found.problem if found else "Ray Serve knows nothing of it"
                if found and found.status is ApplicationStatus.RUNNING:
                    return
                if found and found.status is ApplicationStatus.DEPLOY_FAILED:
                    raise InputError(f"{failed}: {problem or 'Ray Serve gives no reason'}")
                if not found:  # one of the same name was still being deleted
                    self.reconcile(variant)
            time.sleep(POLL_S)
        reason = f" ({problem})" if problem else ""
        raise RunError(f"{failed} within replicas.start_s={seconds:g} s{reason}; see Serve's log, or give it longer")

    def make_room(self, coming: Variant) -> None:
        """See that the nodes have room for a model's engines; where they lack it, give up those kept for nothing else
        than a way back. RunError if that does not suffice."""
        replicas, there = self.config.replicas, self.applications()
        if self.name(coming) in there:
            return
        what = "name its resources"
        accelerated, free = self.call(what, self.backend.accelerated), self.call(what, self.backend.free)
        need = demand(self.config.engine, replicas, accelerated=accelerated)
        lacking = replicas.min - num_that_fit(need, free)
        if lacking <= 0:
            return
        # All engines of this service need the same.
        spare = self.spare_applications() & there.keys()
        num_spare = sum(there[app].num_engines for app in spare)
        if lacking > num_spare and not replicas.wait_for_nodes:
            are = "engine of {} is" if replicas.min == 1 else "engines of {} are"
            nodes = [format_resources({name: node.get(name, 0.0) for name in need}) for node in free]
            raise RunError(
                f"there is no room for {coming.name}: {replicas.min} {are.format(format_resources(need))} needed, and "
                f"free is {', '.join(nodes) or 'no node'}; free some, add a node, or promote a release that is still "
                "watched"
            )
        if spare:
            self.give_up_spare()

    def spare_applications(self) -> Set[str]:
        """Applications that nothing but a return to the last release's other arm needs."""
        latest = self.store.releases.latest()
        if latest is None or latest.experiment is not None:
            return set()
        return self.wanted_models().keys() - self.wanted_models(spare=False).keys()

    def give_up_spare(self) -> None:
        """Stop counting on them, here and in gateways. Raises StaleRelease if the release just changed."""
        latest = self.store.releases.latest()
        assert latest is not None
        LOG.info("the engines of %s end, as a candidate needs their room", ", ".join(sorted(self.spare_applications())))
        self.store.releases.save(replace(latest, warm=False))

    def try_adapter(self, adapter: Variant, deployment: Deployment) -> None:
        """Have it answer with one token. Raises InputError if its model's engines do not load it."""
        body = {"model": adapter.name, "prompt": [0], "max_tokens": 1}
        ask = partial(self.backend.first_answer, deployment, body, f"try-{adapter.name}")
        status, answer = self.call(f"answer with adapter {adapter.name}", ask)
        if status != 200:
            raise InputError(f"adapter {adapter.name} in {adapter.folder}: {answer['error']['message']}")

    def wanted_models(self, coming: Variant | None = None, *, spare: bool = True) -> dict[str, Variant]:
        """Whole models that are to have engines, by their application."""
        latest = self.store.releases.latest() if spare else None
        variants = served_variants(self.store.variants, self.config, self.store.releases.production(), latest)
        variants |= {coming.name: coming} if coming else {}
        return {self.name(one): one for one in variants.values() if one.base is None}

    def applications(self) -> Mapping[str, ApplicationState]:
        return self.call("give its status", self.backend.applications)

    def name(self, host: Variant) -> str:
        return app_name(host, self.config.engine, self.config.replicas)

    def call(self, what: str, call: Callable[[], ResultT]) -> ResultT:
        return call_with_timeout(self.config.replicas.call_s, what, call)


def missing(there: Mapping[str, ApplicationState], wanted: Set[str]) -> set[str]:
    """Applications to deploy. One whose engines all ended is deployed again: Serve itself would leave it."""
    failed = ApplicationStatus.DEPLOY_FAILED
    return {app for app in wanted if app not in there or there[app].status is failed}


def surplus(there: Mapping[str, ApplicationState], deployed: Set[str], wanted: Set[str]) -> set[str]:
    """Applications to delete: those that this service deployed and wants no more; whatever others run stays."""
    going = ApplicationStatus.DELETING
    return {app for app in deployed & there.keys() if app not in wanted and there[app].status is not going}


def num_that_fit(need: Mapping[str, float], free: Sequence[Mapping[str, float]]) -> int:
    """Engines that nodes have room for; one is on one node."""
    return sum(min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in need.items()) for node in free)


def format_resources(resources: Mapping[str, float]) -> str:
    """Format resources for people: `2 CPU and 1 GPU`."""
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
