"""One model's engines as a Serve deployment, in a Serve application of its own: `rlhf-model-...`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve as ray_serve
from ray.serve import Application

from rlhf.actors.nodes import has_accelerators
from rlhf.runtimes.configs import ServerConfig
from rlhf.runtimes.imports import paused_collector
from rlhf.runtimes.protocols import EngineDied
from serve.config import ReplicasConfig
from serve.gateway.coalescing import coalesce
from serve.gateway.log_redaction import UnexpectedError, describe_error, redact_error_messages
from serve.store.records import Variant

PREFIX = "rlhf-model-"
DEPLOYMENT = "engine"
HEALTH_PERIOD_S = 2.0
ENVIRONMENT = {"VLLM_CONFIGURE_LOGGING": "0"}
"""vLLM's import would replace the handlers of Serve's logs by its own. A replica that has to log that the controller of
Serve is gone would then raise, and end with it."""
FAST = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""Environment of the replicas on a request's way, as in Serve's mode for throughput: they call each other by gRPC, not
by Ray's objects, in one event loop instead of three threads."""
CPU_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


class Engine:
    """A replica."""

    async def __init__(self, folder: str, name: str, config: ServerConfig) -> None:  # type: ignore[misc]
        redact_error_messages()
        # Imported here: it takes ten seconds, of this process alone.
        with paused_collector():
            from rlhf.runtimes.vllm_server import VLLMServer

        self.stream_interval_s = config.stream_interval_s
        self.server = VLLMServer(folder, name, config)
        await self.server.start()

    async def answer(
        self, endpoint: str, body: Mapping[str, Any], request_id: str, adapter: str | None
    ) -> AsyncIterator[tuple[int, Any]]:
        """`adapter` is the folder of the adapter that the body's model names; it is loaded where it is first asked."""
        if adapter is not None:
            await self.server.hold_adapter(body["model"], adapter)
        answers = self.server.answer(endpoint, body, request_id)
        if body.get("stream"):
            answers = coalesce(answers, self.stream_interval_s)
        try:
            async for answer in answers:
                yield answer
        except EngineDied:
            # Routers turn away from a dead process at once; from an unhealthy one after three periods.
            os._exit(1)
        except Exception as error:  # noqa: BLE001  raised again
            # Serve logs what a replica raises with its message, which may quote what was asked.
            raise UnexpectedError(describe_error(error)) from None

    async def check_health(self) -> None:
        await self.server.check_health()

    def __del__(self) -> None:
        if hasattr(self, "server"):
            self.server.close()


def app_name(variant: Variant, config: ServerConfig, replicas: ReplicasConfig) -> str:
    """Another model or configuration is another application: one of this name is never replaced, and so never
    restarted."""
    shape = (replicas.min, replicas.max, replicas.target_ongoing_requests, replicas.drain_s, replicas.memory_bytes)
    digest = hashlib.sha256(repr((variant.version, config, shape)).encode()).hexdigest()
    return f"{PREFIX}{variant.name}-{digest[:8]}"


def demand(config: ServerConfig, replicas: ReplicasConfig, *, accelerated: bool) -> dict[str, float]:
    """Ray's resources that one engine reserves, by name; those of which it needs none are left out."""
    need = {
        "CPU": 1.0,
        "GPU": float(config.tensor_parallel_size) if accelerated else 0.0,
        "memory": float(replicas.memory_bytes),
    }
    return {name: amount for name, amount in need.items() if amount}


def application(variant: Variant, config: ServerConfig, replicas: ReplicasConfig) -> Application:
    """The engines of a whole model."""
    need = demand(config, replicas, accelerated=has_accelerators())
    deployment = ray_serve.deployment(Engine).options(
        name=DEPLOYMENT,
        autoscaling_config={
            "min_replicas": replicas.min,
            "max_replicas": replicas.max,
            "target_ongoing_requests": replicas.target_ongoing_requests,
        },
        max_ongoing_requests=2 * config.max_num_seqs,
        graceful_shutdown_timeout_s=replicas.drain_s,
        health_check_period_s=HEALTH_PERIOD_S,
        # The store knows every request; a line for each costs a tenth of this process's time.
        logging_config={"enable_access_log": False},
        # Of the very first replica: a model that does not load once would not load later.
        max_constructor_retry_count=1,
        ray_actor_options={
            "num_cpus": need["CPU"],
            "num_gpus": need.get("GPU", 0),
            "memory": need.get("memory"),
            "runtime_env": {"env_vars": FAST | ENVIRONMENT | ({} if "GPU" in need else CPU_ENVIRONMENT)},
        },
    )
    return deployment.bind(variant.folder, variant.name, config)
