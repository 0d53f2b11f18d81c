"""Engines by name: vLLM's, and those of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlhf.lookup import find_function
from rlhf.models.lora import LoRAConfig
from rlhf.runtimes.configs import VLLM, Precision, SamplerConfig
from rlhf.runtimes.imports import paused_collector
from rlhf.runtimes.protocols import Engine
from rlhf.types import InputError, RunError

KEY = "sampler.engine"
METHODS = tuple(name for name in dir(Engine) if not name.startswith("_"))


def make_engine(
    model_path: str,
    config: SamplerConfig,
    precision: Precision,
    *,
    banned_token_ids: Sequence[int],
    stop_token_ids: Sequence[int],
    takes_turns: bool,
    lora: LoRAConfig | None = None,
) -> Engine:
    """Start the engine that `config.engine` names, in this process. `lora`: vLLM alone takes versions of an adapter.

    Raises InputError if one of the user's own is not found or lacks a method, RunError if none can be made.
    """
    make = find_engine(config.engine)
    options = {"banned_token_ids": banned_token_ids, "stop_token_ids": stop_token_ids, "takes_turns": takes_turns}
    if lora is not None:
        options["lora"] = lora
    try:
        engine = make(model_path, config, precision, **options)
    except (InputError, RunError):
        raise
    except Exception as error:
        raise RunError(
            f"{KEY}={config.engine} cannot be made, {type(error).__name__}: {error}: correct it; the "
            "worker's log says more"
        ) from error
    missing = [name for name in METHODS if not callable(getattr(engine, name, None))]
    if missing:
        raise InputError(
            f"{KEY}={config.engine}: the engine has no {missing[0]}(): implement rlhf.runtimes.protocols.Engine"
        )
    return engine


def find_engine(spec: str) -> Callable[..., Engine]:
    """Return the class or function that makes an engine. Raises InputError if one of the user's own is not found."""
    if spec != VLLM:
        return find_function(KEY, spec)
    # Imported here: it takes ten seconds, of this process alone.
    with paused_collector():
        from rlhf.runtimes.vllm_sampler import VLLMSampler

    return VLLMSampler
