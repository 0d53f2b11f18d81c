"""Machines are examined before accelerators are held, by every command that starts engines or learners."""

import json
from pathlib import Path

import pytest

from rlhf.config import OnlineConfig, SFTRunConfig, compose
from rlhf.stages.offline import sft
from rlhf.stages.online import measure
from rlhf.stages.online import run as online
from rlhf.types import RunError

CONF = Path(__file__).parents[2] / "conf"
SMALL = ["preflight.min_shm_bytes=1000000000000000"]
ONLINE = [*SMALL, "algorithm=grpo", "sampling.max_tokens=4", "stream.prompts_per_step=2", "sampler.context_tokens=64",
          "reward.functions=[exact]"]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "name", "schema", "overrides"),
    [
        (measure.run, "online", OnlineConfig, ONLINE),
        (online.run, "online", OnlineConfig, ONLINE),
        (sft.run, "sft", SFTRunConfig, [*SMALL, "data.response_key=answer"]),
    ],
    ids=["measure", "online", "sft"],
)
def test_a_machine_that_cannot_work_ends_the_command(cluster, models, tmp_path, run, name, schema, overrides):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "run"
    rows.write_text("".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(4)))
    base = [f"model={models['tied']}", f"data.path={rows}", f"output={output}"]
    config = compose(CONF, name, [*base, *overrides], schema)
    with pytest.raises(RunError, match=r"^preflight: node .* of /dev/shm, less than preflight\.min_shm_bytes=1000000"):
        run(config)
    # An evaluation writes nothing.
    assert output.exists() is (run is not measure.run)
    assert not list(tmp_path.rglob(".tmp-*"))
