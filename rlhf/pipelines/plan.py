"""The planned stages of a pipeline, each with its configuration, folder and fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlhf.command_line import explain, explain_passed_on
from rlhf.config import as_plain, as_read, compose
from rlhf.offline_config import RunConfig
from rlhf.overrides import quoted
from rlhf.pipelines.config import PipelineConfig, in_order, parents_of
from rlhf.pipelines.kinds import KINDS, Kind
from rlhf.stages.inputs import fingerprint, hashes_of, paths_of, read_json
from rlhf.stages.snapshots import with_snapshots
from rlhf.train.artifact import MANIFEST
from rlhf.train.run_folder import CONFIG, flatten
from rlhf.types import InputError, RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A stage that is ready to run."""

    name: str
    kind_name: str
    parents: tuple[str, ...]
    """Names of the stages it needs."""
    needs: tuple[str, ...]
    """Keys of its configuration whose values are artifacts of these stages."""
    folder: Path
    config: Any

    @property
    def kind(self) -> Kind:
        return KINDS[self.kind_name]

    @property
    def artifact(self) -> Path:
        """Path of the artifact."""
        return self.folder / self.kind.artifact

    @property
    def reads(self) -> dict[str, str]:
        """Paths of the stage's inputs, by key."""
        config = as_read(self.config)
        return paths_of(config) | {key: flatten(config)[key] for key in self.needs}

    def with_inputs(self) -> Step:
        """Return the step with the hashes of its inputs, which must exist."""
        origins = as_read(self.config).get("hub", {})
        with errors_of_stage(self.name):
            hashes = hashes_of(self.reads, {key: origin["commit"] for key, origin in origins.items()})
        return replace(self, config=replace(self.config, inputs=hashes))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.kind_name, as_plain(self.config))

    @property
    def is_made(self) -> bool:
        """Return whether the artifact exists and has this configuration and these inputs."""
        return (self.artifact / MANIFEST).is_file() and self.is_of(read_json(self.artifact / MANIFEST)["config"])

    @property
    def is_of_another(self) -> bool:
        """Return whether the folder holds results, complete or not, of another configuration or other inputs."""
        return (self.folder / CONFIG).is_file() and not self.is_of(read_json(self.folder / CONFIG))

    def is_of(self, config: Mapping[str, Any]) -> bool:
        return fingerprint(self.kind_name, config) == self.fingerprint


def steps_of(config: PipelineConfig, conf: Path) -> list[Step]:
    """Return all stages in the order in which they run. Raises InputError for a stage that is invalid or lacks an
    input."""
    steps = [step_of(config, name, conf) for name in in_order(config.stages)]
    for step in steps:
        check_inputs(step)
    return steps


def step_of(config: PipelineConfig, name: str, conf: Path) -> Step:
    stage = config.stages[name]
    kind, folder = kind_of(config, name), Path(config.output) / name
    needs = [f"++{key}={quoted(made_by(config, need))}" for key, need in stage.needs.items()]
    overrides = [*stage.overrides, *needs, f"output={quoted(str(folder))}"]
    with errors_of_stage(name):
        composed = compose(conf, kind.config_name, overrides, kind.schema)
        if isinstance(composed, RunConfig):
            composed = with_snapshots(composed, made_later=stage.needs)
    return Step(
        name=name,
        kind_name=stage.kind,
        parents=parents_of(stage),
        needs=tuple(stage.needs),
        folder=folder,
        config=composed,
    )


def kind_of(config: PipelineConfig, name: str) -> Kind:
    kind = config.stages[name].kind
    if kind not in KINDS:
        raise InputError(f"stages.{name}.kind={kind}: there is no such kind; known are {', '.join(KINDS)}")
    return KINDS[kind]


def made_by(config: PipelineConfig, need: str) -> str:
    """Return the path of the artifact that `need` names, or of a file in it."""
    name, _, file = need.partition("/")
    return str(Path(config.output, name, kind_of(config, name).artifact, file))


def check_inputs(step: Step) -> None:
    """Raise InputError if an input that no stage makes does not exist."""
    for key, path in step.reads.items():
        if key not in step.needs and not Path(path).exists():
            raise InputError(
                f"stage {step.name}: {key}={path}: it does not exist; correct the path, or let another stage make it "
                f"(stages.{step.name}.needs)"
            )


@contextmanager
def errors_of_stage(name: str) -> Iterator[None]:
    """Prefix errors of the block with the stage's name."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"stage {name}: {explain(error)}") from None
    except (InputError, RunError) as error:
        raise type(error)(f"stage {name}: {error}") from error
    except (ValueError, TypeError, IndexError) as error:
        if (sentence := explain_passed_on(error)) is None:
            raise
        raise InputError(f"stage {name}: {sentence}") from None
