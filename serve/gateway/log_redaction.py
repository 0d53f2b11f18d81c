"""Errors in logs: what they are and where they arose, without their messages, which may quote what users wrote."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

from rlhf.causes import causes
from rlhf.types import RunError

FRAMES = 12
"""Innermost frames of an error that are named."""


class UnexpectedError(RunError):
    """Description of an error that nobody expected, raised in its place where Ray Serve logs what is raised."""


SAFE_ERRORS = (RayActorError, DeploymentUnavailableError, UnexpectedError)
"""Errors whose messages are Ray's or ours and hold no word of a user."""


def describe_error(error: BaseException) -> str:
    """Name the error's type, its frames, the innermost last, and its causes, in one line."""
    return ", after ".join(map(describe_alone, causes(error, suppressed=False)))


def describe_alone(error: BaseException) -> str:
    message = f" ({' '.join(str(error).split())})" if isinstance(error, SAFE_ERRORS) else ""
    trace = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    frames = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in trace]
    return f"{type(error).__name__}{message}" + (f" at {' > '.join(frames)}" if frames else "")


def redact_error_messages() -> None:
    """Have every logger of this process describe errors that it would print whole: vLLM's, Serve's and asyncio's do."""
    make = logging.getLogRecordFactory()

    def describing(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.exc_info and record.exc_info[1] is not None:
            record.msg = f"{record.getMessage()} {describe_error(record.exc_info[1])}"
            record.args, record.exc_info = (), None
        return record

    logging.setLogRecordFactory(describing)
