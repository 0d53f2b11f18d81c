"""What is shipped composes, and is what the README says."""

from pathlib import Path

import pytest

from rlhf.config import compose
from serve.config import ServeConfig

CONF = Path(__file__).parents[3] / "conf"
SERVICES = sorted(path.stem for path in (CONF / "service").glob("*.yaml"))


@pytest.mark.parametrize("service", SERVICES)
def test_services_compose(service: str) -> None:
    config = compose(CONF, "serve", [f"service={service}", "production=one"], ServeConfig)
    assert config.http.host == "127.0.0.1"
    assert config.limits.max_tokens < config.engine.context_tokens
    assert config.engine.kv_cache_bytes is not None
    assert {guard.metric for guard in config.release.guardrails.values()} == {"error_rate", "latency_p95_s"}


def test_the_quickstarts_models_are_served() -> None:
    config = compose(CONF, "serve", ["service=quickstart"], ServeConfig)
    assert (list(config.models), config.production) == (["sft", "grpo"], "sft")


def test_a_service_needs_no_recipe() -> None:
    config = compose(CONF, "serve", ["+models.one=folder", "production=one", "output=out"], ServeConfig)
    assert config.models == {"one": "folder"}
    assert config.release.steps == [0.01, 0.05, 0.25, 0.5]
    assert config.release.goal.metric == "thumbs"
