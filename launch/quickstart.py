"""Make a tiny model and its task, warm-start it, and train it by a recipe, all on one local cluster: `make quickstart`.

What is there already is not made again. Arguments are those of launch/ppo.py; without one, experiment=quickstart.
"""

import json
import sys
from pathlib import Path

from rlhf.config import OnlineConfig, SFTRunConfig, command_line, compose

CONF = Path(__file__).parent.parent / "conf"
FOLDER = Path("outputs/quickstart")


def write_additions(path: Path) -> None:
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    arguments = sys.argv[1:]
    if not any(argument.startswith("experiment=") for argument in arguments):
        arguments = ["experiment=quickstart", *arguments]
    online_config = compose(CONF, "online", arguments, OnlineConfig)
    sft_config = compose(CONF, "sft", ["experiment=quickstart_sft"], SFTRunConfig)
    from rlhf.actors.placement import cluster
    from rlhf.models.tiny import build_tiny_model
    from rlhf.stages import offline, online
    from rlhf.stages.job import plan_roles

    write_additions(FOLDER / "additions.jsonl")
    if not Path(sft_config.model, "config.json").is_file():
        build_tiny_model(Path(sft_config.model), alphabet="0123456789+=", hidden_size=128, context_tokens=64)
    with cluster(plan_roles(online_config)):
        offline.run(sft_config)
        online.run(online_config)


if __name__ == "__main__":
    command_line(main)
