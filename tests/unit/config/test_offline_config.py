"""Keys of offline training that are refused."""

import re

import pytest

from rlhf.offline_config import HeldOutConfig, RewardModelRunConfig, SFTRunConfig
from rlhf.types import InputError


@pytest.mark.parametrize(
    ("schema", "keys", "sentence"),
    [
        (SFTRunConfig, {"neftune_alpha": 0.0}, "neftune_alpha=0.0: give a positive number, or null for no noise"),
        (RewardModelRunConfig, {"neftune_alpha": -1.0}, "neftune_alpha=-1.0: give a positive number"),
        (RewardModelRunConfig, {"folds": 1}, "folds=1: give at least 2, or null for no cross-validation"),
        (HeldOutConfig, {"fraction": 1.0}, "held_out.fraction=1.0: give at least 0 and less than 1"),
        (
            HeldOutConfig,
            {"path": "a", "fraction": 0.1},
            "held_out.path=a, held_out.fraction=0.1: rows come from a file",
        ),
        (HeldOutConfig, {"every": 0}, "held_out.every=0: give at least 1, or null"),
        (HeldOutConfig, {"num_samples": -1}, "held_out.num_samples=-1, held_out.sample_tokens=64: give at least 0"),
    ],
)
def test_values_out_of_range_are_refused(schema, keys, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        schema(**keys)
