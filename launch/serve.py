"""Serve models here until Ctrl-C: `python launch/serve.py +models.one=FOLDER production=one output=FOLDER`."""

import os
import signal
import sys
import threading
from pathlib import Path

if "RAY_ADDRESS" not in os.environ:
    # With this a cluster on one machine listens on loopback only, on Linux too. Ray reads it when imported.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import resolve


def main() -> None:
    # Imported before the configuration is composed: it registers the schema that conf/serve.yaml names.
    from serve.config import ServeConfig

    @hydra.main(version_base="1.3", config_path="../conf", config_name="serve")
    @in_one_sentence
    def run(composed: DictConfig) -> None:
        config = resolve(composed, ServeConfig)
        from serve.app import OPERATOR_KEY
        from serve.local import serving

        stop = threading.Event()
        with serving(config) as url:
            # Ray replaces the signal handlers while it starts.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            key = Path(config.output) / OPERATOR_KEY
            sys.stdout.write(
                f"{', '.join([config.name, *config.models])} at {url}/v1; the operator's key is in {key}\n"
            )
            sys.stdout.flush()
            stop.wait()

    run()


if __name__ == "__main__":
    command_line(main, hydra=True)
