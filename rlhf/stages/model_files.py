"""Files of a model folder other than the weights."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config import as_plain
from rlhf.train.artifact import MANIFEST

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSIONED = ("rlhf", "torch", "transformers", "deepspeed", "ray")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int], folder: Path) -> None:
    """Write tokenizer, chat template, and a generation config with every id that ended rollouts in training."""
    tokenizer.save_pretrained(folder)
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**settings, "eos_token_id": list(stop_token_ids)}, indent=2), encoding="utf-8")


def manifest_of(config: Any, model: str) -> dict[str, Any]:
    """Return the manifest of this run's model: how to load it, its parents and its configuration."""
    parent, origin = Path(model) / MANIFEST, config.hub.get("model")
    return {
        "auto_class": "AutoModelForCausalLM",
        "parents": [
            {
                "path": str(Path(model).resolve()),
                "manifest": str(parent) if parent.is_file() else None,
                **({"id": origin.id, "commit": origin.commit} if origin else {}),
            }
        ],
        "config": as_plain(config),
        "packages": {name: importlib.metadata.version(name) for name in VERSIONED},
    }
