"""Compatibility of every causal architecture that transformers and vLLM share, checked on tiny models.

`python -m benchmarks.architectures docs/architectures.md` trains nothing: it loads, lays out, saves, adapts and merges
each model; with `--sync` it also starts a vLLM engine for each, in sequence, and replaces its weights. Each model runs
in a separate process, so that a crash affects no other. Needs vLLM for the list of its architectures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.types import InputError, RunError

MEMORY_BYTES = 6 << 30
TIMEOUT_S = 300
SYNC_TOLERANCE = 1e-4
NO_SYNC = "not run"
LONGEST = 200
"""Largest number of characters in a cell of the table."""
ENDS = "a run ends at its first sync"
COLUMNS = ("architecture", "rows", "attention", "saved = loaded", "LoRA merged = trained", "vLLM before, after a sync")
PROBE = list(range(3, 35))


def check(name: str, *, sync: bool) -> dict[str, str]:
    """Return the results for one architecture, by column; `verdict` is accepted, refused or wrong."""
    from benchmarks.tiny_architectures import TINY, build

    with tempfile.TemporaryDirectory() as folder:
        model_type, settings = TINY[name]
        build(Path(folder) / "model", model_type, settings)
        found: dict[str, str] = {}
        try:
            found |= exactness_of(Path(folder))
            found["LoRA merged = trained"] = adapted(Path(folder))
            found |= {COLUMNS[-1]: synced(Path(folder)) if sync else NO_SYNC, "verdict": "accepted"}
        except (InputError, RunError) as error:
            said = str(error).replace(repr(str(Path(folder) / "model")), "…").replace(folder, "…")
            found |= {"verdict": "refused", "sentence": said}
        return found


def exactness_of(folder: Path) -> dict[str, str]:
    from benchmarks.tiny_architectures import VOCABULARY, scramble
    from rlhf.models.causal_lm import (
        SamplingDistribution,
        TokenReadout,
        context_length,
        read_model_config,
        refuse_experts,
    )
    from rlhf.runtimes.configs import BackendConfig, Precision
    from rlhf.train.layout import choose_layout, measure_exactness
    from rlhf.train.verify import verify_saved

    path = str(folder / "model")
    model_config = read_model_config(path)
    refuse_experts(path, model_config)
    context_length(model_config)
    config = BackendConfig(precision=Precision.fp32, zero_stage=1)
    backend, readout = backend_of(path, config), TokenReadout(SamplingDistribution())
    measured = measure_exactness(backend, readout, VOCABULARY)
    layout = choose_layout(config, {"policy": (path, measured)})
    scramble(backend.model, seed=7)
    backend.save_pretrained(folder / "saved")
    verified = verify_saved(folder / "saved", backend, readout, PROBE)
    return {
        "rows": "packed" if layout.packed else f"padded (packed differ by {max(measured.packed, measured.leak):.0e})",
        "attention": backend.model.config._attn_implementation,
        "saved = loaded": f"{verified.max_difference:.0e}",
    }


def adapted(folder: Path) -> str:
    """Return the largest difference of the merged model, or the reason why it takes no adapter."""
    import torch

    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.models.lora import LoRAConfig, check_lora
    from rlhf.runtimes.configs import BackendConfig, Precision
    from rlhf.train.verify import verify_saved

    path, lora = str(folder / "model"), LoRAConfig(rank=4)
    try:
        check_lora(lora, path, zero_stage=1)
        backend = backend_of(path, BackendConfig(precision=Precision.fp32, zero_stage=1), lora)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in backend.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        backend.save_pretrained(folder / "merged")
        verified = verify_saved(folder / "merged", backend, TokenReadout(SamplingDistribution()), PROBE)
    except (InputError, RunError) as error:
        return f"refused: {str(error).replace(path, '…')}"
    return f"{verified.max_difference:.0e}"


def synced(folder: Path) -> str:
    """Return the largest difference of an engine's logprobs before and after a weight sync, or the reason why no engine
    starts."""
    from benchmarks.tiny_architectures import scramble
    from rlhf.runtimes.configs import BackendConfig, Precision, SamplerConfig
    from rlhf.runtimes.vllm_sampler import VLLMSampler
    from rlhf.train.learner import Learner

    path = str(folder / "model")
    backend = backend_of(path, BackendConfig(precision=Precision.fp32, zero_stage=1))
    sampler = SamplerConfig(
        context_tokens=64, kv_cache_bytes=64 << 20, accelerator_memory_fraction=0.1, max_concurrent_rollouts=8,
        eager=True,
    )  # fmt: skip
    learner = Learner(backend, None, packed=False)  # type: ignore[arg-type]  # used for probes only

    async def ask() -> list[float]:
        engine = VLLMSampler(path, sampler, Precision.fp32, banned_token_ids=[0, 2], stop_token_ids=[1])
        gaps = [float(abs(await engine.logprobs(PROBE) - learner.probe(PROBE)).max())]
        scramble(backend.model, seed=11)
        await engine.load_begin()
        for bucket in backend.weights(1 << 16):
            await engine.load(bucket)
        await engine.load_finish(1)
        return [*gaps, float(abs(await engine.logprobs(PROBE) - learner.probe(PROBE)).max())]

    try:
        before, after = asyncio.run(ask())
    except (InputError, RunError) as error:
        return f"refused: {str(error).replace(path, '…')}"
    # A run measures the same difference after every sync, and ends if it is too large.
    return f"{before:.0e}, {after:.0e}" + (f": {ENDS}" if after > SYNC_TOLERANCE else "")


def backend_of(path: str, config: Any, lora: Any = None) -> Any:
    from rlhf.models.heads import Head
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    return DeepSpeedBackend(path, config, None, Head.causal_lm, lora)


def in_a_process(name: str, *, sync: bool) -> dict[str, str]:
    """Return the result of `check`; a traceback or a crash is `wrong`, since a user would see it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "benchmarks.architectures", "--one", name, *(["--sync"] if sync else [])]
    try:
        done = subprocess.run(
            command, env={**os.environ, **rank}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"verdict": "wrong", "sentence": f"no answer within {TIMEOUT_S} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"')]
    if lines:
        return dict(json.loads(lines[-1]))
    last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
    return {"verdict": "wrong", "sentence": f"exit code {done.returncode}: {last}"}


def mixtures() -> dict[str, str]:
    """Return the shared architectures that are mixtures of experts by default, with the error that refuses them."""
    from transformers import AutoConfig

    from rlhf.models.causal_lm import refuse_experts

    found = {}
    for model_type in shared():
        try:
            refuse_experts("…", AutoConfig.for_model(model_type).to_dict())
        except InputError as error:
            found[model_type] = str(error)
    return found


def shared() -> list[str]:
    """Return the model types whose causal model in transformers is supported natively by vLLM."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names
    from vllm.model_executor.models.registry import _TEXT_GENERATION_MODELS as served

    return sorted(kind for kind, name in names.items() if (name if isinstance(name, str) else name[0]) in served)


def shorten(cell: str) -> str:
    return cell if len(cell) <= LONGEST else f"{cell[:LONGEST]}..."


def no_rollouts(synced: str) -> bool:
    return synced.startswith("refused") or synced.endswith(ENDS)


def table(found: Mapping[str, Mapping[str, str]], experts: Mapping[str, str], unbuilt: Sequence[str]) -> str:
    from benchmarks.tiny_architectures import TINY
    from rlhf.stages.console import markdown_table

    counts = Counter(each["verdict"] for each in found.values())
    accepted = {name: each for name, each in found.items() if each["verdict"] == "accepted"}
    offline = sum(COLUMNS[-1] in each and no_rollouts(each[COLUMNS[-1]]) for each in accepted.values())
    others = [(name, each["verdict"], each["sentence"]) for name, each in found.items() if name not in accepted]
    header = (COLUMNS[0], "trained", *COLUMNS[1:])
    rows = [
        (
            name,
            "offline" if no_rollouts(each[COLUMNS[-1]]) else "online too",
            *(shorten(each[key]) for key in COLUMNS[1:]),
        )
        for name, each in accepted.items()
    ]
    types = {model_type for name, (model_type, _) in TINY.items() if name in accepted}
    return (
        "# Architectures\n\nMade by `python -m benchmarks.architectures --sync docs/architectures.md`: tiny models of "
        "every causal architecture that transformers and vLLM share, in fp32 on a CPU. Figures are the largest "
        f"differences of a {len(PROBE)}-token row's logprobs, in nats.\n\n"
        "Rows are packed if packing does not change the model's outputs, else padded. "
        "Attention `varlen` is this project's, without a mask (decision 012); `sdpa` and `eager` are transformers'. "
        "Engines of models with state spaces need chunked prefill, which is off in vLLM on a CPU: on a GPU "
        "they may start.\n\n"
        f"Accepted {counts['accepted']} models of {len(types)} types, {offline} for offline training only (vLLM "
        "starts no engine, or its logprobs differ, which ends a run before it learns); refused "
        f"{counts['refused'] + len(experts)}, {len(experts)} of them mixtures of experts; wrong {counts['wrong']}.\n\n"
        f"{markdown_table(header, rows)}\n"
        f"## Refused\n\n{markdown_table(('architecture', 'outcome', 'sentence'), others)}\n"
        f"Mixtures of experts: {', '.join(experts)}. The sentence: {next(iter(experts.values()), 'none')}\n\n"
        f"## Not built\n\nNo tiny model is made of: {', '.join(unbuilt) or 'none'}.\n"
    )


def main(argv: Sequence[str] | None = None, run: Callable[..., dict[str, str]] = in_a_process) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", nargs="?", type=Path)
    parser.add_argument("--sync", action="store_true", help="start vLLM engines too")
    parser.add_argument("--one", help="check this architecture in this process")
    parser.add_argument("--results", type=Path, help="JSON file that finished architectures are kept in and read from")
    arguments = parser.parse_args(argv)
    if arguments.one:
        if not arguments.sync:
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        print(json.dumps(check(arguments.one, sync=arguments.sync)), flush=True)
        os._exit(0)  # an engine's threads would keep the process
    from benchmarks.tiny_architectures import TINY

    kept = arguments.results
    found = json.loads(kept.read_text()) if kept and kept.is_file() else {}
    for name in TINY:
        if name not in found:
            found[name] = run(name, sync=arguments.sync)
            print(name, found[name], flush=True)
            if kept:
                kept.write_text(json.dumps(found, indent=1))
    experts = mixtures()
    built = {model_type for model_type, _ in TINY.values()}
    unbuilt = [kind for kind in shared() if kind not in built and kind not in experts]
    arguments.report.write_text(table({name: found[name] for name in TINY}, experts, unbuilt), encoding="utf-8")


if __name__ == "__main__":
    main()
