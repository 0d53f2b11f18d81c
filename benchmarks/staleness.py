"""Learning from stale rollouts: staleness 0, 3 and 8, without a correction and with three of them.

`python -m benchmarks.staleness FOLDER --seeds 3`: 9 runs a seed, one or two minutes each on two quiet cores;
continued by the same command. `--table` only prints what has ended, `--figure FILE.png` draws the curves. GRPO on
numbers backwards; differences are to staleness 0 with the same seed.
"""

import argparse
from pathlib import Path

from benchmarks.learning import report, run_all

CORRECTIONS = ("off", "token_truncate", "token_mask", "sequence_truncate")
VARIANTS = {
    "on-policy": (),
    **{
        f"{staleness} {kind}": (f"stream.max_staleness={staleness}", f"algorithm.correction.kind={kind}")
        for staleness in (3, 8)
        for kind in CORRECTIONS
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    folder, tasks = given.folder.resolve(), ["backwards"]
    if not given.table:
        run_all(folder, VARIANTS, tasks, given.seeds)
    report(folder, list(VARIANTS), tasks, given.seeds, given.figure)


if __name__ == "__main__":
    main()
