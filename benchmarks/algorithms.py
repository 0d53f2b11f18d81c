"""Every online method on two tasks, from one base model each: held-out success before and after, and differences to
GRPO with the same seed.

`python -m benchmarks.algorithms FOLDER --seeds 5`: 20 runs a seed, one or two minutes each on two quiet cores;
continued by the same command. `--table` only prints what has ended, `--figure FILE.png` draws the curves. The tasks:
numbers backwards, which the base model writes right in 6 of 10 cases, and their digits in order, of which it knows
about 1 of 7. All have the learning rate of the quickstart, which was chosen for GRPO.
"""

import argparse
from pathlib import Path

from benchmarks.learning import TASKS, report, run_all

SINGLE = ("algorithm.group_size=1",)
VARIANTS = {
    "grpo": (),
    "dr_grpo": ("algorithm=dr_grpo",),
    "dapo": ("algorithm=dapo", "algorithm.clip_high=0.28", "stream.max_replaced_per_step=8192"),
    "gspo": ("algorithm=gspo", "algorithm.clip_high=4e-4"),
    "cispo": ("algorithm=cispo", "algorithm.clip_high=4"),
    "rloo": ("algorithm=rloo",),
    "remax": ("algorithm=remax", *SINGLE, "stream.prompts_per_step=256"),
    "reinforce_pp": ("algorithm=reinforce_pp", *SINGLE, "stream.prompts_per_step=512"),
    "reinforce_pp_baseline": ("algorithm=reinforce_pp_baseline",),
    "ppo": ("algorithm=ppo", "critic.optimizer.lr=1e-3", "critic.warmup_steps=5"),
}
"""Methods with what differs from the recipe: the clip of their paper, and as many rollouts a step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if not given.table:
        run_all(given.folder.resolve(), {name: VARIANTS[name] for name in given.only}, given.tasks, given.seeds)
    report(given.folder.resolve(), given.only, given.tasks, given.seeds, given.figure)


if __name__ == "__main__":
    main()
