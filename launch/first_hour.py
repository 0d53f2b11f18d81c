"""The first hour on a GPU machine: SFT, GRPO with its roles apart and together, PPO, then Qwen3-0.6B on GSM8K.

`make gpu-first-hour`, or with keys: `model=Qwen/Qwen3-0.6B data=gsm8k/train.jsonl output=outputs/first_hour`. Each
rung is a command that can also run alone; a failed rung is reported in its row, and rungs that do not need it still
run. The result is one table: success on held-out prompts before and after, tokens per second, peak memory of a worker.
Without a GPU the same ladder runs tiny models in fp32, and the table says so.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from tiny_words import LETTERS, NUM_HELD_OUT, write_data

from rlhf.command_line import command_line
from rlhf.config import from_words
from rlhf.types import InputError

CONSOLE = Console(highlight=False)
LAUNCH = Path(__file__).parent
COLUMNS = ("rung", "accelerators", "steps", "seconds", "tokens/s", "peak memory (GiB)", "success before", "after")
QWEN3_06B = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
"""Shape of Qwen3-0.6B, from its config.json."""
ON_GPU = ["backend.precision=bf16", "backend.packed=null", "backend.attention=null"]
ENGINE_ON_GPU = ["sampler.eager=false", "sampler.kv_cache_bytes=null", "sampler.accelerator_memory_fraction=0.3"]


@dataclass(kw_only=True, slots=True)
class FirstHourConfig:
    """Model and data of the ladder's last rung, and the output folder."""

    model: str | None = None
    """Qwen3-0.6B: a folder or a Hub id. None: a model of its shape with random weights, which learns nothing."""
    data: str | None = None
    """GSM8K as JSONL with `question` and `answer`; its last rows are held out. Set together with `model`."""
    output: str = "outputs/first_hour"
    """Folder of all runs and of the table, `first_hour.md`."""

    def __post_init__(self) -> None:
        if (self.model is None) != (self.data is None):
            raise InputError(f"model={self.model}, data={self.data}: set both, or neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One training, and the evaluation of its model before and after."""

    name: str
    script: str
    overrides: Sequence[str]
    accelerators: int
    start: str
    """Folder or Hub id of the model that it starts from."""
    ask: Sequence[str]
    """Overrides of `launch/measure.py` for the held-out prompts."""


@dataclass(slots=True)
class Ladder:
    """Run rungs in subfolders of `root`, and remember each model's success."""

    root: Path
    num_gpus: int
    success: dict[str, str] = field(default_factory=dict)

    def climb(self, rung: Rung) -> dict[str, str]:
        row = {"rung": rung.name, "accelerators": str(rung.accelerators)}
        if self.num_gpus and rung.accelerators > self.num_gpus:
            return {**row, "steps": f"not run: this machine has {self.num_gpus} GPUs"}
        output, before = self.root / rung.name, self.ask(rung, rung.start)
        started = time.monotonic()
        error = self.call(rung.script, [*rung.overrides, f"model={rung.start}", f"output={output}"], rung.name)
        if error is not None:
            return {**row, "steps": f"failed: {error}", "success before": before}
        seconds = time.monotonic() - started
        after = self.ask(rung, str(output / "model"))
        return {**row, **figures_of(output), "seconds": f"{seconds:.0f}", "success before": before, "after": after}

    def ask(self, rung: Rung, model: str) -> str:
        """Evaluate a model on held-out prompts; the result of an earlier evaluation is used again."""
        key = f"{model} {rung.ask}"
        if key not in self.success:
            log = f"{rung.name}-{'before' if model == rung.start else 'after'}"
            error = self.call("measure.py", [*rung.ask, f"model={model}", "output=unused"], log)
            found = re.search(r"^success=(.+)$", (self.root / f"{log}.log").read_text(encoding="utf-8"), re.MULTILINE)
            self.success[key] = found.group(1) if found else f"failed: {error}"
        return self.success[key]

    def call(self, script: str, overrides: Sequence[str], log: str) -> str | None:
        """Run a script of this folder; return its error, or None if it succeeds."""
        command = [sys.executable, str(LAUNCH / script), *overrides]
        file = self.root / f"{log}.log"
        CONSOLE.print(f"{log}: {script}, log in {file}", soft_wrap=True)
        with CONSOLE.status(log), file.open("w", encoding="utf-8") as out:
            code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
        if code == 0:
            return None
        errors = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else f"exit code {code}, see {file}"


def figures_of(output: Path) -> dict[str, str]:
    """Return steps, tokens per second over the second half, and peak memory of a worker, from the run's metrics."""
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = [row for row in map(json.loads, lines) if "tokens_per_second" in row]
    settled = rows[len(rows) // 2 :]
    peak = max(value for row in rows for name, value in row.items() if name.startswith("memory_bytes/"))
    speed = sum(row["tokens_per_second"] for row in settled) / len(settled)
    return {"steps": str(len(rows)), "tokens/s": f"{speed:.0f}", "peak memory (GiB)": f"{peak / 2**30:.1f}"}


def tiny_rungs(root: Path, on_gpu: bool) -> list[Rung]:
    """Return rungs in which a tiny Qwen3 learns to write words backwards: every kind of run in a minute or two."""
    from rlhf.models.tiny import build_tiny_model

    write_data(root / "words")
    build_tiny_model(root / "untrained", alphabet=f"{LETTERS}=", hidden_size=128, context_tokens=64)
    train, held_out = root / "words/words_train.jsonl", root / "words/words_held_out.jsonl"
    learner, engine = (ON_GPU, ENGINE_ON_GPU) if on_gpu else ([], [])
    online = [f"data.path={train}", "validation.num_prompts=1", *learner, *engine]
    grpo = ["experiment=tiny_grpo", *online]
    ppo = ["experiment=tiny_ppo", "reward.weights=[1.0]", "reward.model=null", *online]
    ask = ["experiment=tiny_grpo", f"data.path={held_out}", f"validation.num_prompts={NUM_HELD_OUT}",
           "validation.num_shown=0", *engine]  # fmt: skip
    sft = ["experiment=tiny_sft", "placement.policy=1", f"data.path={train}", f"held_out.path={held_out}", *learner]
    base, start = str(root / "untrained"), str(root / "sft/model")
    together = "placement.colocate=[[policy,reference,critic,sampler]]"
    return [
        Rung(name="sft", script="sft.py", overrides=sft, accelerators=1, start=base, ask=ask),
        Rung(name="grpo_apart", script="ppo.py", overrides=grpo, accelerators=3, start=start, ask=ask),
        Rung(name="grpo_together", script="ppo.py", overrides=[*grpo, together], accelerators=1, start=start, ask=ask),
        Rung(name="ppo_together", script="ppo.py", overrides=[*ppo, together], accelerators=1, start=start, ask=ask),
    ]


def qwen3_rung(config: FirstHourConfig, root: Path, on_gpu: bool) -> Rung:
    """Return GRPO at the size of Qwen3-0.6B: on GSM8K if model and data are set, else on words with random weights."""
    small = ["train.num_steps=20", "validation.num_prompts=1"]
    recipe = ["experiment=qwen3_06b_grpo_math_1gpu"]
    if config.model is not None and config.data is not None:
        train, held_out = split_off(Path(config.data), root)
        ask = [*recipe, f"data.path={held_out}", f"validation.num_prompts={NUM_HELD_OUT}", "validation.num_shown=0"]
        overrides = [*recipe, *small, f"data.path={train}"]
        return Rung(name="qwen3_06b", script="ppo.py", overrides=overrides, accelerators=1, start=config.model, ask=ask)
    from rlhf.models.tiny import build_tiny_model

    shape = root / "qwen3_06b_shape"
    build_tiny_model(shape, alphabet=f"{LETTERS}=", context_tokens=4096, shape=QWEN3_06B if on_gpu else {})
    words = ["data.prompt_key=prompt", "data.answer_key=answer", "data.answer_pattern=null", "data.template=null",
             "reward=exact"]  # fmt: skip
    limits = ["sampling.max_tokens=256", "sampler.context_tokens=512", "stream.prompts_per_step=8"]
    tiny = [] if on_gpu else ["backend.precision=fp32", "train.num_steps=3", "sampler.kv_cache_bytes=67108864",
                              "sampler.accelerator_memory_fraction=0.1", "sampler.eager=true"]  # fmt: skip
    overrides = [*recipe, *small, *words, *limits, *tiny]
    return Rung(
        name="qwen3_06b_random" if on_gpu else "qwen3_06b_recipe", script="ppo.py", accelerators=1, start=str(shape),
        overrides=[*overrides, f"data.path={root / 'words/words_train.jsonl'}"],
        ask=[*overrides, f"data.path={root / 'words/words_held_out.jsonl'}", "validation.num_shown=0"],
    )  # fmt: skip


def split_off(rows: Path, root: Path) -> tuple[Path, Path]:
    """Write two files in `root`: all rows except the last `NUM_HELD_OUT`, and these."""
    lines = rows.expanduser().read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) <= NUM_HELD_OUT:
        raise InputError(f"data={rows}: it has {len(lines)} rows, the last {NUM_HELD_OUT} are held out; give more rows")
    train, held_out = root / "gsm8k_train.jsonl", root / "gsm8k_held_out.jsonl"
    train.write_text("".join(lines[:-NUM_HELD_OUT]), encoding="utf-8")
    held_out.write_text("".join(lines[-NUM_HELD_OUT:]), encoding="utf-8")
    return train, held_out


def main() -> None:
    import torch

    from rlhf.stages.console import markdown_table

    config = from_words(sys.argv[1:], FirstHourConfig)
    root, num_gpus = Path(config.output).resolve(), torch.cuda.device_count()
    if root.exists() and any(root.iterdir()):
        raise InputError(
            f"output={config.output}: it holds an earlier ladder; set a new or empty folder (ARGS=output=FOLDER)"
        )
    root.mkdir(parents=True, exist_ok=True)
    ladder = Ladder(root, num_gpus)
    rungs = [*tiny_rungs(root, num_gpus > 0), qwen3_rung(config, root, num_gpus > 0)]
    rows = [ladder.climb(rung) for rung in rungs]
    machine = f"{num_gpus} x {torch.cuda.get_device_name()}" if num_gpus else "not run, tiny models on the CPU instead"
    table = markdown_table(COLUMNS, [[row.get(column, "") for column in COLUMNS] for row in rows])
    text = f"GPU: {machine}\n\n{table}"
    (root / "first_hour.md").write_text(text, encoding="utf-8")
    CONSOLE.print(text, soft_wrap=True)
    if any(row["steps"].startswith("failed") for row in rows):
        sys.exit(4)


if __name__ == "__main__":
    command_line(main)
