"""The members of a sweep as Ray jobs: `python launch/sweep.py sweep.address=http://HOST:8265 optimizer.lr=1e-5,1e-6`.

Arguments are those of `launch/ppo.py --multirun` and `sweep.*`; the same command continues a sweep.
"""

import sys
from pathlib import Path

import rlhf.sweeps.config  # noqa: F401  registers the schema that --help shows
from rlhf.command_line import command_line


def main() -> None:
    from rlhf.sweeps.jobs import run

    run(sys.argv[1:], Path(__file__).resolve().parent.parent)


if __name__ == "__main__":
    command_line(main, configs=["sweep_schema", "online"])
