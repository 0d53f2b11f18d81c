"""Ray and Ray Serve as the controller needs them.

Names that Ray keeps private are imported here alone, each with the reason, and a test fails where Ray renames one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve as ray_serve
from ray._private.authentication import authentication_utils
from ray._private.state import available_resources_per_node
from ray.exceptions import RayTaskError
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatusOverview

from rlhf.actors.nodes import has_accelerators
from rlhf.types import InputError
from serve.config import ServeConfig
from serve.control.engines import ApplicationState
from serve.gateway.engine import DEPLOYMENT, application
from serve.gateway.routing import Deployment
from serve.store.records import Endpoint, Variant

ALIVE = ("STARTING", "UPDATING", "RECOVERING", "RUNNING")
"""States of replicas that hold resources, or will soon."""


@dataclass(frozen=True, slots=True)
class RayServeBackend:
    """A `serve.control.engines.ServeBackend`."""

    config: ServeConfig

    def applications(self) -> Mapping[str, ApplicationState]:
        return {name: application_state(one) for name, one in ray_serve.status().applications.items()}

    def deploy(self, app: str, variant: Variant) -> None:
        target = application(variant, self.config.engine, self.config.replicas)
        # None: reached by handles alone.
        ray_serve.run_many(
            [ray_serve.RunTarget(target, name=app, route_prefix=None)], wait_for_applications_running=False
        )

    def delete(self, app: str) -> None:
        ray_serve.delete(app, _blocking=False)

    def accelerated(self) -> bool:
        return has_accelerators()

    def free(self) -> Sequence[Mapping[str, float]]:
        return list(available_resources_per_node().values())

    def first_answer(self, deployment: Deployment, body: Mapping[str, Any], request_id: str) -> tuple[int, Any]:
        engine = ray_serve.get_deployment_handle(DEPLOYMENT, deployment.app, _check_exists=False).options(stream=True)
        try:
            answers = list(engine.answer.remote(Endpoint.completion, body, request_id, deployment.adapter))
        except RayTaskError as error:
            raise InputError(last_line(str(error.cause))) from None
        status, answer = answers[0]
        return status, answer


def is_token_auth_enabled() -> bool:
    """Return whether Ray's ports want a token. `RAY_AUTH_MODE` alone does not tell: without it a token that exists
    counts, and Ray's core decides."""
    return authentication_utils.is_token_auth_enabled()


def proxy_host() -> str:
    """Return the address that Serve's proxies listen on. No public call tells: `serve.status` has their states alone,
    and the process that started Serve may have given another address than this service's configuration."""
    return _get_global_client().http_config.host or "127.0.0.1"


def start_problem(app: str) -> str:
    """Return Serve's reason why an application does not start; empty if it names none."""
    found = ray_serve.status().applications.get(app)
    return application_state(found).problem if found else ""


def application_state(one: ApplicationStatusOverview) -> ApplicationState:
    deployments = one.deployments.values()
    return ApplicationState(
        status=one.status,
        num_engines=sum(each.replica_states.get(state, 0) for each in deployments for state in ALIVE),
        problem="; ".join(last_line(each.message) for each in deployments if each.message.strip()),
    )


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason was given"
