"""Members of a sweep as jobs: composed and checked here, with absolute paths and a folder each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlhf.command_line import explain
from rlhf.config import CLASS, OnlineConfig, as_plain, compose
from rlhf.overrides import quoted
from rlhf.paths import PATH_LISTS, PATHS, is_function, is_set_path, is_uri
from rlhf.stages.snapshots import sources_of
from rlhf.sweeps.grid import by_key, grid, member_of, parse
from rlhf.sweeps.record import Member, State
from rlhf.train.run_folder import flatten
from rlhf.types import InputError


@dataclass(slots=True, kw_only=True)
class Plan:
    """The overrides of a sweep, and its members as jobs."""

    conf: Path
    overrides: dict[str, Override]
    """Overrides by key, those of the recipe's `hydra.sweeper.params` first."""
    configs: dict[str, OnlineConfig] = field(default_factory=dict)
    """Configurations of the members, by name."""

    @staticmethod
    def of(conf: Path, words: Sequence[str]) -> Plan:
        """Return the plan of a command line. Raises InputError if a swept key is given twice."""
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            given = parse(words)
            check_given_once(given)
            fixed = [word for word, override in zip(words, given, strict=True) if not override.is_sweep_override()]
            params = hydra_compose("online", fixed, return_hydra_config=True).hydra.sweeper.params or {}
            parsed = by_key([*parse([f"{key}={value}" for key, value in params.items()]), *given])
        return Plan(conf=conf, overrides=parsed)

    def listed(self) -> list[Member]:
        """Return all members of the grid as jobs."""
        return [self.job(member) for member in grid(self.overrides)]

    def job(self, member: Member) -> Member:
        """Return a member as a job, with absolute paths and a folder of its own. Raises InputError if its configuration
        is wrong."""
        config = compose(self.conf, "online", list(member.overrides), OnlineConfig)
        output = quoted(str(Path(config.output).resolve() / member.name))
        job = replace(member, overrides=(*member.overrides, *absolute_paths(config), f"output={output}"))
        self.configs[job.name] = compose(self.conf, "online", list(job.overrides), OnlineConfig)
        return job

    def tolerant_job(self, values: Mapping[str, str]) -> Member:
        """Return the job with these values of the swept keys; as failed if its configuration is wrong."""
        member = member_of(self.overrides, values)
        try:
            return self.job(member)
        except InputError as error:
            return replace(member, state=State.failed, error=str(error))
        except (HydraException, OmegaConfBaseException) as error:
            return replace(member, state=State.failed, error=explain(error))

    @property
    def sample(self) -> OnlineConfig:
        """Return the configuration of one member, for what all have in common."""
        return next(iter(self.configs.values()))

    @property
    def root(self) -> Path:
        """Return the sweep's folder."""
        return Path(self.sample.output).parent


def check_given_once(overrides: Sequence[Override]) -> None:
    """Raise InputError if a key that is swept is given twice."""
    words: dict[str, list[Override]] = {}
    for override in overrides:
        words.setdefault(override.get_key_element(), []).append(override)
    for key, given in words.items():
        if len(given) > 1 and any(override.is_sweep_override() for override in given):
            texts = ", ".join(str(override.input_line) for override in given)
            raise InputError(f"{key}: it is given {len(given)} times ({texts}); give it once")


def absolute_paths(config: OnlineConfig) -> list[str]:
    """Return overrides with absolute paths for all paths relative to this working directory: jobs have another one."""
    on_hub = {source.key for source in sources_of(config)}
    values = flatten(as_plain(config))
    # With prompt sets `data.path` is empty.
    read = [key for key, value in values.items() if value and (key in PATHS or is_set_path(key)) and key not in on_hub]
    read += ["log.mlflow"] if config.log.mlflow and not is_uri(config.log.mlflow) else []
    paths = [f"{key}={quoted(absolute(values[key]))}" for key in read]
    named = {key: value for key, value in values.items() if is_function(key) and isinstance(value, str)}
    paths += [f"{key}={quoted(absolute(spec))}" for key, spec in named.items() if ".py:" in spec]
    for key in PATH_LISTS:
        items = [path if f"{key}.{i}" in on_hub else absolute(path) for i, path in enumerate(values[key])]
        paths += [f"{key}=[{','.join(map(quoted, items))}]"] if items else []
    rewards = [quoted(absolute(name) if ".py:" in name else name) for name in config.reward.functions]
    own = values.get(f"algorithm.{CLASS}")
    method = [] if own is None else [f"algorithm={quoted(own)}"]
    return [*paths, *method, f"reward.functions=[{','.join(rewards)}]"]


def absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
