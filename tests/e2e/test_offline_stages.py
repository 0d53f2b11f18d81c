"""Offline stages as the command line runs them, on Ray Train: what they leave loads, generates, scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.config import PreferenceRunConfig, RewardModelRunConfig, SFTRunConfig
from rlhf.config import compose as compose_config
from rlhf.train.artifact import open_artifact

CONF = Path(__file__).parents[2] / "conf"
SMALL = ("backend.precision=fp32", "backend.max_tokens_per_microbatch=256", "optimizer.lr=1e-3",
         "train.rows_per_step=8", "train.num_steps=4", "log.tensorboard=false", "preflight.timeout_s=60")  # fmt: skip
SCHEMAS: dict[str, type[Any]] = {
    "sft": SFTRunConfig, "reward_model": RewardModelRunConfig, "preference": PreferenceRunConfig,
}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Right sums and wrong ones."""
    rows = [
        {"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a + b + 1 + a % 3)}
        for a in range(5)
        for b in range(5)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def run(cluster: None, models: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Runs a stage on the session's cluster; its folder."""

    def start(name: str, folder: str, data: Path, *overrides: str) -> Path:
        import importlib

        stage = importlib.import_module(f"rlhf.stages.offline.{name}")
        base = [*SMALL, f"model={models['tied']}", f"data.path={data}", f"output={tmp_path / folder}"]
        stage.run(compose_config(CONF, name, [*base, *overrides], SCHEMAS[name]))
        return tmp_path / folder

    return start


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def complete(folder: Path, prompt: str) -> str:
    """As a user would, with what lies in the folder alone."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)  # fmt: skip
    found = model.generate(**ids, max_new_tokens=4, do_sample=False)
    return tokenizer.decode(found[0, ids["input_ids"].shape[1] :])


def test_full_and_lora_checkpoints_load_and_generate(run: Callable[..., Path], sums: Path) -> None:
    keys = ("data.response_key=answer", "checkpoint.every=2", "held_out.fraction=0.2")
    full = run("sft", "full", sums, *keys)
    adapted = run("sft", "adapted", sums, *keys, "lora.rank=4", "neftune_alpha=5")
    for root in (full, adapted):
        for folder in (root / "model", root / "checkpoints" / "step-000002"):
            assert open_artifact(folder).manifest["auto_class"] == "AutoModelForCausalLM"
            assert isinstance(complete(folder, "1+2="), str)
        samples = lines(root / "samples.jsonl")
        assert {line["step"] for line in samples} == {-1, 3}
        # What the run said of its held-out prompts is what the saved model says of them.
        for line in samples[-3:]:
            assert complete(root / "model", line["prompt"]).startswith(line["completion"][:4])
        figures = open_artifact(root / "model").manifest["metrics"]
        assert figures["held_out/perplexity"] == pytest.approx(torch.tensor(figures["held_out/loss"]).exp().item())
    tokenizer = AutoTokenizer.from_pretrained(adapted / "model")
    with_adapter = AutoModelForCausalLM.from_pretrained(adapted / "model" / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(adapted / "model")
    ids = tokenizer("1+2=", return_tensors="pt")["input_ids"]
    torch.testing.assert_close(with_adapter(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_reward_model_is_cross_validated_and_scores_as_it_was_measured(run: Callable[..., Path], pairs: Path) -> None:
    from rlhf.data.dialogues import Dialogue
    from rlhf.models.reward_model import RewardModel, check_reward_model

    root = run("reward_model", "judge", pairs, "held_out.fraction=0.2", "folds=2")
    figures = open_artifact(root / "model").manifest["metrics"]
    assert check_reward_model(str(root / "model")) > 0
    assert type(AutoModelForSequenceClassification.from_pretrained(root / "model")).__name__.startswith("Qwen3")
    measured = [line for line in lines(root / "scores.jsonl") if line["set"] == "held_out"]
    rows = {f"{pairs}:{number}": row for number, row in enumerate(lines(pairs), start=1)}
    dialogues = [
        Dialogue([{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}])
        for row in (rows[line["source"]] for line in measured)
    ]
    judge = RewardModel(str(root / "model"), dtype=torch.float32, max_tokens=100)
    assert judge.score(dialogues) == pytest.approx([line["chosen"] for line in measured], abs=1e-4)
    won = sum(line["chosen"] > line["rejected"] for line in measured) / len(measured)
    assert figures["held_out/accuracy"] == pytest.approx(won)
    folds = json.loads((root / "folds.json").read_text())["folds"]
    assert sum(fold["fold/pairs"] for fold in folds) == len(rows) - len(measured)
    assert figures["folds/accuracy_mean"] == pytest.approx(sum(fold["fold/accuracy"] for fold in folds) / 2)
    assert 0 <= figures["folds/held_out/agreement"] <= 1
    assert (root / "reliability.png").stat().st_size > 5000


UNTIMED = {"train/loss", "train/gradient_norm", "train/reward_margin", "held_out/loss"}


def test_a_reference_computed_before_or_beside_training_gives_the_same_numbers(
    run: Callable[..., Path], pairs: Path
) -> None:
    keys = ("held_out.fraction=0.2", "held_out.num_samples=0")
    before = run("preference", "before", pairs, *keys)
    live = run("preference", "live", pairs, *keys, "reference.mode=live")
    for one, other in zip(lines(before / "metrics.jsonl"), lines(live / "metrics.jsonl"), strict=True):
        shared = one.keys() & other.keys() & UNTIMED
        assert shared
        for name in shared:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6)
    assert (before / "reference" / "logprobs.npy").is_file()
    assert not (live / "reference").exists()
    assert complete(before / "model", "1+2=") == complete(live / "model", "1+2=")


def test_kto_with_an_adapter_needs_no_second_model(run: Callable[..., Path], pairs: Path) -> None:
    root = run("preference", "kto", pairs, "algorithm=kto", "data=labelled", f"data.path={pairs}", "lora.rank=4",
               "reference.mode=live")  # fmt: skip
    figures = lines(root / "metrics.jsonl")
    assert figures[0]["train/kl_baseline"] == pytest.approx(0.0, abs=1e-5), "the adapter starts as the reference"
    assert all(row["train/kl_baseline"] >= 0 for row in figures)
    assert isinstance(complete(root / "model", "1+2="), str)
