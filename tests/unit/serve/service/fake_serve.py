"""A Serve of one node, without processes: what `serve.control.engines` calls instead of Ray's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.serve.schema import ApplicationStatus

from serve.control.engines import ApplicationState
from serve.gateway.routing import Deployment
from serve.store.records import Variant


@dataclass
class FakeServe:
    """Each engine takes a CPU, from when it is deployed until it is deleted; without one it waits."""

    cpus: int
    deployed: dict[str, Variant] = field(default_factory=dict)
    """By application, in the order they came."""
    broken: dict[str, str] = field(default_factory=dict)
    """Models whose engines do not start, and why."""
    slow: set[str] = field(default_factory=set)
    """Models whose engines start for ever."""
    failures: list[Exception] = field(default_factory=list)
    """What the next calls raise."""
    answer: tuple[int, Any] = (200, {})
    """To an adapter's first request."""

    def models(self) -> list[str]:
        """That have engines, or are to have them."""
        return sorted(variant.name for variant in list(self.deployed.values()))

    def applications(self) -> Mapping[str, ApplicationState]:
        if self.failures:
            raise self.failures.pop()
        return {app: self.found(variant, place) for place, (app, variant) in enumerate(list(self.deployed.items()))}

    def found(self, variant: Variant, place: int) -> ApplicationState:
        if problem := self.broken.get(variant.name):
            return ApplicationState(status=ApplicationStatus.DEPLOY_FAILED, num_engines=0, problem=problem)
        if place >= self.cpus or variant.name in self.slow:
            return ApplicationState(status=ApplicationStatus.DEPLOYING, num_engines=1, problem="1 replica is starting")
        return ApplicationState(status=ApplicationStatus.RUNNING, num_engines=1)

    def deploy(self, app: str, variant: Variant) -> None:
        assert app not in self.deployed or variant.name in self.broken, "a second deployment would restart it"
        self.deployed[app] = variant

    def delete(self, app: str) -> None:
        del self.deployed[app]

    def accelerated(self) -> bool:
        return False

    def free(self) -> Sequence[Mapping[str, float]]:
        return [{"CPU": float(max(self.cpus - len(self.deployed), 0))}]

    def first_answer(self, deployment: Deployment, body: Mapping[str, Any], request_id: str) -> tuple[int, Any]:
        return self.answer
