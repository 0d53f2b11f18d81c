"""The service for the duration of a block, on this process's cluster or on a new local one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from functools import partial

import ray
from ray import serve as ray_serve
from ray.serve.config import ProxyLocation

from rlhf.actors.connect import start_ray
from rlhf.types import RunError
from serve.app import APP, assemble, store_url
from serve.config import ServeConfig
from serve.control.engines import POLL_S, call_with_timeout
from serve.control.ray_adapter import start_problem
from serve.gateway.http_server import reserve_port
from serve.store.store import Store


@contextmanager
def serving(config: ServeConfig) -> Iterator[str]:
    """Start the service, and yield its URL once every model answers. Raises InputError, or RunError if it does not
    start."""
    with ExitStack() as stack:
        stack.enter_context(reserve_port(config.http))
        app = assemble(config, listens=True)
        if not ray.is_initialized():
            # An engine takes a CPU; a candidate needs one in addition to the models.
            start_ray(num_cpus=max(os.cpu_count() or 1, (len(config.models) + 1) * config.replicas.max))
            stack.callback(ray.shutdown)
        call_s = config.replicas.call_s
        stack.callback(close_down, store_url(config), call_s, config.replicas.drain_s)
        call_with_timeout(call_s, "start", lambda: ray_serve.start(proxy_location=ProxyLocation.Disabled))
        # The release controller starts the engines of all models in sequence before it is ready.
        longest_s = len(config.models) * config.replicas.start_s + call_s
        try:
            call_with_timeout(longest_s, "start the service", lambda: ray_serve.run(app, name=APP, route_prefix=None))
        except RuntimeError as error:
            raise RunError(f"the service does not start: {start_problem(APP) or error}") from error
        host = f"[{config.http.host}]" if ":" in config.http.host else config.http.host
        yield f"http://{host}:{config.http.port}"


def close_down(url: str, call_s: float, drain_s: float) -> None:
    """End this service's applications, and Serve itself unless others run on it.

    The service ends first: its controller would deploy engines again, and requests need them until its listeners are
    closed.
    """
    store = Store(url)
    try:
        own = {APP, *store.applications.names()}
    finally:
        store.close()
    there = applications(call_s)
    if APP in there:
        call_with_timeout(call_s, f"delete {APP}", partial(ray_serve.delete, APP, _blocking=False))
        deadline = time.monotonic() + drain_s + call_s
        while APP in applications(call_s) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    if there <= own:
        return ray_serve.shutdown()
    for app in sorted(there & own - {APP}):
        call_with_timeout(call_s, f"delete {app}", partial(ray_serve.delete, app, _blocking=False))


def applications(call_s: float) -> Set[str]:
    return call_with_timeout(call_s, "give its status", ray_serve.status).applications.keys()
