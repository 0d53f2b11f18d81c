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
NUM_HELD_OUT = 100


def numbers() -> list[str]:
    """Return all numbers of three digits, in random order."""
    found = [f"{number:03d}" for number in range(1000)]
    random.Random(0).shuffle(found)
    return found


def write_numbers(folder: Path) -> None:
    """Write the task, numbers backwards: rows for all trainings, and others that none of them sees."""
    folder.mkdir(parents=True, exist_ok=True)
    every = numbers()
    for name, chosen in (("train", every[NUM_HELD_OUT:]), ("held_out", every[:NUM_HELD_OUT])):
        rows = [{"prompt": f"{number}=", "answer": number[::-1]} for number in chosen]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rated_answers() -> dict[str, float]:
    """Return training prompts with answers, rated 1 for the right answer and 0 for any other: near misses, other
    numbers and arbitrary texts, which a policy would exploit if the reward model never saw any."""
    generator = random.Random(0)
    rated: dict[str, float] = {}
    for number in numbers()[NUM_HELD_OUT:]:
        right = number[::-1]
        wrong = [number, right[:2], right + generator.choice(ALPHABET), "".join(generator.sample(number, 3))]
        wrong += ["".join(generator.choices(ALPHABET, k=length)) for length in (generator.randint(0, 4), 3)]
        for i in (0, 1, 2, generator.randrange(3)):
            wrong.append(right[:i] + generator.choice(ALPHABET) + right[i + 1 :])
        rated |= {f"{number}={answer}": float(answer == right) for answer in [*wrong, right]}
    return rated


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

    write_numbers(FOLDER)
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
