"""The service for as long as a block runs, on the cluster this process belongs to or on one of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import ray
from ray import serve
from ray.serve.config import ProxyLocation

from rlhf.actors.connect import start_ray
from rlhf.types import RunError
from serve.app import APP, assemble, store_url
from serve.engines import within
from serve.listening import bind
from serve.ray_serve import why_not
from serve.settings import ServeConfig
from serve.store import Store


@contextmanager
def serving(config: ServeConfig) -> Iterator[str]:
    """The service's URL, once every model answers. Raises InputError, or RunError where it does not start."""
    with ExitStack() as stack:
        bind(config.doors, shared=False).close()
        app = assemble(config, listens=True)
        if not ray.is_initialized():
            # An engine takes a CPU; a candidate needs one more beside the models.
            start_ray(num_cpus=max(os.cpu_count() or 1, (len(config.models) + 1) * config.replicas.max))
            stack.callback(ray.shutdown)
        call_s = config.replicas.call_s
        stack.callback(close_down, store_url(config), call_s)
        within(call_s, "start", lambda: serve.start(proxy_location=ProxyLocation.Disabled))
        # The release controller starts one model's engines after the other, before it is there.
        longest_s = len(config.models) * config.replicas.start_s + call_s
        try:
            within(longest_s, "start the service", lambda: serve.run(app, name=APP, route_prefix=None))
        except RuntimeError as error:
            raise RunError(f"the service does not start: {why_not(APP) or error}") from error
        host = f"[{config.doors.host}]" if ":" in config.doors.host else config.doors.host
        yield f"http://{host}:{config.doors.port}"


def close_down(url: str, call_s: float) -> None:
    """End this service's applications, and Serve itself unless others run on it."""
    store = Store(url)
    try:
        own = {APP, *store.applications()}
    finally:
        store.close()
    there = within(call_s, "give its status", serve.status).applications.keys()
    if there <= own:
        return serve.shutdown()
    # The service first: its controller would deploy engines again.
    for app in sorted(there & own, key=lambda app: app != APP):
        within(call_s, f"delete {app}", partial(serve.delete, app, _blocking=False))
