"""Quickstart: make tiny models and their task, fine-tune one, train it with a recipe on a local cluster.

`make quickstart` runs it. Existing models and data are used again. Arguments are those of launch/ppo.py; without
arguments, experiment=quickstart.
"""

import json
import random
import sys
from pathlib import Path

from rlhf.command_line import command_line
from rlhf.config import OnlineConfig, SFTRunConfig, compose

CONF = Path(__file__).parent.parent / "conf"
FOLDER = Path("outputs/quickstart")
ALPHABET = "0123456789+="
ODD_ANSWERS = 8
"""Arbitrary texts per sum that the reward model learns to be wrong: a policy would exploit texts it never saw."""


def sums() -> dict[str, int]:
    return {f"{a}+{b}=": a + b for a in range(10) for b in range(10)}


def write_additions(path: Path) -> None:
    rows = [{"prompt": prompt, "answer": str(answer)} for prompt, answer in sums().items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rated_answers() -> dict[str, float]:
    """Return sums with answers, rated 1 for the right answer and 0 for any other."""
    generator = random.Random(0)
    odd = ["".join(generator.choices(ALPHABET, k=generator.randint(0, 4))) for _ in range(len(sums()) * ODD_ANSWERS)]
    wrong = [f"{prompt}{text}" for i, prompt in enumerate(sums()) for text in odd[i * ODD_ANSWERS :][:ODD_ANSWERS]]
    answers = {f"{prompt}{answer}": float(answer == right) for prompt, right in sums().items() for answer in range(19)}
    return {**dict.fromkeys(wrong, 0.0), **answers}


def main() -> None:
    arguments = sys.argv[1:]
    if not any(argument.startswith("experiment=") for argument in arguments):
        arguments = ["experiment=quickstart", *arguments]
    sft_config = compose(CONF, "sft", ["experiment=quickstart_sft"], SFTRunConfig)
    online_config = compose(CONF, "online", arguments, OnlineConfig)
    from rlhf.actors.placement import cluster
    from rlhf.models.tiny import build_tiny_model, fit_tiny_reward_model
    from rlhf.stages.console import CONSOLE
    from rlhf.stages.offline import sft
    from rlhf.stages.online import run as online
    from rlhf.stages.online.job import plan_roles

    write_additions(FOLDER / "additions.jsonl")
    if not Path(sft_config.model, "config.json").is_file():
        build_tiny_model(Path(sft_config.model), alphabet=ALPHABET, hidden_size=128, context_tokens=64)
    judge = online_config.reward.model
    if judge is not None and not Path(judge, "config.json").is_file():
        with CONSOLE.status("fitting a tiny reward model"):
            error = fit_tiny_reward_model(Path(judge), rated_answers(), alphabet=ALPHABET, context_tokens=64)
        CONSOLE.print(f"reward model: {judge}, mean absolute error {error:.3f}")
    with cluster(plan_roles(online_config)):
        sft.run(sft_config)
        online.run(online_config)


if __name__ == "__main__":
    command_line(main, configs=["online"])
