"""On-policy distillation of a two-layer student from a four-layer teacher, against SFT on the teacher's own samples.

`python benchmarks/distillation.py [SEED...]`: the quickstart's task, numbers written backwards, on this machine. The
teacher learns by SFT and GRPO. For each seed a student gets a little SFT, then is trained twice from there: on its own
samples with the teacher's logprobs, and by SFT on answers that the teacher sampled for the same training prompts, with
as many sampled tokens and optimiser steps. Prints the success on held-out numbers with 95 % intervals over prompts.
Finished parts in `outputs/distillation` are used again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from launch.quickstart import ALPHABET, CONF, write_numbers
from rlhf.actors.placement import cluster
from rlhf.config import OnlineConfig, SFTRunConfig, compose
from rlhf.models.tiny import build_tiny_model
from rlhf.models.tokenizer import load_tokenizer
from rlhf.ops.intervals import Estimate
from rlhf.ops.logprobs import sampling_logits
from rlhf.stages.offline import sft
from rlhf.stages.online import evaluate, run
from rlhf.stages.online.job import plan_roles, prepare

FOLDER = Path("outputs/distillation")
NUM_STEPS, PROMPTS_PER_STEP, GROUP_SIZE, NUM_MINIBATCHES = 60, 64, 4, 4
CHUNK = 256
"""Prompts that the teacher answers at once."""


def online_config(*words: str) -> OnlineConfig:
    files = [f"data.path={FOLDER}/train.jsonl", f"validation.path={FOLDER}/held_out.jsonl"]
    return compose(CONF, "online", ["experiment=quickstart", *files, *words], OnlineConfig)


def fine_tuned(model: Path, output: Path, *words: str) -> Path:
    """Train a model by the quickstart's SFT, with `words` over it. Return its folder."""
    given = [f"model={model}", f"output={output}", *words]
    sft.run(compose(CONF, "sft", ["experiment=quickstart_sft", *given], SFTRunConfig))
    return output / "model"


def untrained(num_layers: int, seed: int) -> Path:
    folder = FOLDER / f"untrained_{num_layers}_layers_{seed}"
    if not (folder / "config.json").is_file():
        build_tiny_model(
            folder, alphabet=ALPHABET, hidden_size=128, num_layers=num_layers, context_tokens=64, seed=seed
        )
    return folder


def teacher() -> Path:
    base = fine_tuned(untrained(4, 0), FOLDER / "teacher_sft", f"data.path={FOLDER}/train.jsonl", "train.num_steps=90")
    words = ["train.num_steps=30", "stop_at_reward=0.99", "optimizer.lr=2e-4", "algorithm.measure_kl=false"]
    run.run(online_config(f"model={base}", f"output={FOLDER}/teacher", *words))
    return FOLDER / "teacher/model"


def distillation(student: Path, teacher: Path, seed: int) -> OnlineConfig:
    return online_config(
        "algorithm=distill", "algorithm.measure_kl=false", f"algorithm.group_size={GROUP_SIZE}",
        f"model={student}", f"teacher.model={teacher}", f"output={FOLDER}/distilled_{seed}", f"seed={seed}",
        "stop_at_reward=null", f"train.num_steps={NUM_STEPS}", f"train.num_minibatches={NUM_MINIBATCHES}",
        f"stream.prompts_per_step={PROMPTS_PER_STEP}", "placement.policy=1",
    )  # fmt: skip


def metrics(run_folder: Path, name: str) -> list[dict[str, float]]:
    """Return the rows of a run's metrics that have the metric `name`."""
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if name in row]


def successes(run_folder: Path) -> list[Estimate]:
    """Return the success on held-out prompts at each validation of a run, from before the first step."""
    name = "validation/success"
    rows = metrics(run_folder, name)
    return [Estimate(mean=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"]) for row in rows]


def tokens_sampled(run_folder: Path) -> int:
    """Return the tokens that the student sampled in training."""
    steps = metrics(run_folder, "completion_tokens")
    assert len(steps) == NUM_STEPS
    return round(sum(row["completion_tokens"] for row in steps) * PROMPTS_PER_STEP * GROUP_SIZE)


def answers(teacher: Path, seed: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the teacher's samples as prompts and token ids, from the distribution that runs sample from."""
    job = prepare(online_config(f"model={teacher}", f"output={FOLDER}/unused"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32), load_tokenizer(str(teacher))
    banned = torch.tensor(job.distribution.banned_token_ids)
    torch.manual_seed(seed)
    for start in cycle(range(0, len(job.prompts), CHUNK)):
        prompts = job.prompts[start : start + CHUNK]
        ids = torch.tensor([prompt.token_ids for prompt in prompts])
        width = ids.shape[1]
        for _ in range(job.sampling.max_tokens):
            with torch.no_grad():
                logits = model(input_ids=ids).logits[:, -1]
            logits = sampling_logits(logits, temperature=job.sampling.temperature, banned_token_ids=banned)
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        for prompt, row in zip(prompts, ids[:, width:].tolist(), strict=True):
            ended = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            yield str(prompt.messages[-1]["content"]), row[:ended]


def write_answers(teacher: Path, file: Path, seed: int, num_tokens: int) -> int:
    """Write the teacher's answers until they have `num_tokens` tokens. Return the number of those that ended."""
    tokenizer, rows, left = load_tokenizer(str(teacher)), [], num_tokens
    for prompt, ids in answers(teacher, seed):
        left -= len(ids)
        if left < 0:
            break
        # An answer that was cut would be learnt with an end that the teacher did not choose.
        if ids[-1] == tokenizer.eos_token_id and len(ids) > 1:
            rows.append({"prompt": prompt, "answer": tokenizer.decode(ids[:-1])})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def compared(taught: Path, seed: int) -> list[str]:
    """Train the students of a seed. Return their success in words."""
    few = ["train.num_steps=25", f"seed={seed}", "placement.policy=1"]
    base = fine_tuned(untrained(2, seed), FOLDER / f"student_{seed}", f"data.path={FOLDER}/train.jsonl", *few)
    run.run(distillation(base, taught, seed))
    folder = FOLDER / f"distilled_{seed}"
    num_tokens, file, num_updates = (
        tokens_sampled(folder),
        FOLDER / f"answers_{seed}.jsonl",
        NUM_STEPS * NUM_MINIBATCHES,
    )
    num_rows = write_answers(taught, file, seed, num_tokens)
    words = [f"train.num_steps={num_updates}", f"train.rows_per_step={num_rows // num_updates}", *few[1:]]
    imitated = fine_tuned(base, FOLDER / f"sft_{seed}", f"data.path={file}", *words)
    before, *during, after = successes(folder)
    sft_success = evaluate.run(online_config(f"model={imitated}", f"output={FOLDER}/unused")).success
    return [
        f"seed {seed}, {num_tokens} sampled tokens, {num_updates} updates",
        f"  student, two layers, before: {before}",
        f"  distilled on its own samples: {after}; on the way {', '.join(f'{each.mean:.3f}' for each in during)}",
        f"  SFT on the teacher's samples: {sft_success}",
    ]


def main() -> None:
    seeds = [int(word) for word in sys.argv[1:]] or [0]
    write_numbers(FOLDER)
    with cluster(plan_roles(distillation(untrained(2, 0), untrained(4, 0), 0))):
        taught = teacher()
        lines = [f"teacher, four layers: {successes(FOLDER / 'teacher')[-1]}"]
        for seed in seeds:
            lines += compared(taught, seed)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
