"""Two policies side by side on real engines and learners: the reference itself, and another."""

import json
from pathlib import Path

import pytest

from rlhf.config import CompareConfig, compose
from rlhf.types import InputError
from tests.e2e.conftest import SMALL_RUN

CONF = Path(__file__).parents[2] / "conf"


def test_the_reference_diverges_from_itself_by_nothing_and_ties(
    cluster: None, models: dict[str, Path], sums: Path, tmp_path: Path
) -> None:
    from rlhf.stages.online import compare

    given = [*SMALL_RUN, f"model={models['tied']}", f"data.path={sums}", f"output={tmp_path / 'compare'}",
             f"+policies.same={models['tied']}", f"+policies.again={models['tied']}",
             f"+policies.other={models['untied']}", "validation.num_prompts=6", "validation.threshold=0.1"]  # fmt: skip
    config = compose(CONF, "compare", given, CompareConfig)
    artifact = compare.run(config)
    assert artifact is not None
    record = json.loads((artifact.folder / "report.json").read_text())
    same, again, other = (record["policies"][name] for name in ("same", "again", "other"))
    assert same["kl_per_sequence"] == {"mean": 0.0, "low": None, "high": None}
    assert same["rewards"] == again["rewards"] != other["rewards"]
    assert len(same["rewards"]) == 6
    # Untrained models are both about uniform, yet not the same.
    assert 0.0 < other["kl_per_token"] < 1.0
    assert other["kl_per_sequence"]["mean"] == pytest.approx(other["kl_per_token"] * other["completion_tokens"])
    by_pair = {(pair["one"], pair["other"]): pair for pair in record["pairs"]}
    assert (by_pair["again", "same"]["num_ties"], by_pair["again", "same"]["p_value"]) == (6, 1.0)
    assert artifact.manifest["metrics"]["other/kl_per_token"] == other["kl_per_token"]
    assert (artifact.folder / "report.png").is_file()
    assert (
        "| again against same | 0.500 (0.305 to 0.695) | 0 / 6 / 0 | 1 |" in (artifact.folder / "report.md").read_text()
    )


def test_a_policy_of_another_vocabulary_is_refused(models: dict[str, Path], sums: Path, tmp_path: Path) -> None:
    from rlhf.models.tiny import build_tiny_model
    from rlhf.stages.online import compare

    build_tiny_model(tmp_path / "foreign", alphabet="0123456789+=", hidden_size=64)
    given = [*SMALL_RUN, f"model={models['tied']}", f"data.path={sums}", f"+policies.foreign={tmp_path / 'foreign'}"]
    with pytest.raises(InputError, match=r"vocabulary is not that of the policy .*foreign"):
        compare.run(compose(CONF, "compare", given, CompareConfig))
