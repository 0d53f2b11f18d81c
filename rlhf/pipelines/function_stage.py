"""A stage that calls a user's function, which writes data or a model to start from."""

from __future__ import annotations

import inspect

from rlhf.config import as_plain
from rlhf.lookup import find_function
from rlhf.pipelines.config import FunctionConfig
from rlhf.pipelines.kinds import FILES
from rlhf.train.artifact import MANIFEST, Artifact, committing, open_artifact
from rlhf.train.run_folder import look_at_run_folder, open_run_folder
from rlhf.types import InputError


def run(config: FunctionConfig) -> Artifact | None:
    """Call the function, or with `dry_run` only check that it can be called."""
    function = find_function("function", config.function)
    try:
        inspect.signature(function).bind("folder", **config.arguments)
    except TypeError as error:
        raise InputError(
            f"function={config.function}: it does not take the folder to write into and arguments={config.arguments} "
            f"({error})"
        ) from None
    if config.dry_run:
        look_at_run_folder(config.output, as_plain(config))
        return None
    with open_run_folder(config.output, as_plain(config)) as folder:
        files = folder.root / FILES
        if not (files / MANIFEST).is_file():
            with committing(files, {"kind": "files", "config": as_plain(config), "metrics": {}}) as staging:
                function(staging, **config.arguments)
        return open_artifact(files)
