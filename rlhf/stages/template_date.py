"""The date that a chat template writes, fixed at a run's first start so that a continued run has the same rows."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rlhf.offline_config import RunConfig
from rlhf.train.run_folder import CONFIG

T = TypeVar("T", bound=RunConfig)


def with_template_date(config: T) -> T:
    """Return the configuration with its own `template_date`, else that of the run it continues, else today's."""
    return replace(config, template_date=config.template_date or first_date(Path(config.output)) or today())


def first_date(output: Path) -> str | None:
    """Return the date in the configuration of a started run; None if no run has started, or its file is damaged."""
    try:
        found = json.loads((output / CONFIG).read_text(encoding="utf-8"))["template_date"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # opening the run folder raises the error
    return found if isinstance(found, str) else None


def today() -> str:
    return datetime.date.today().isoformat()
