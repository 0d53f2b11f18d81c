"""A sweep whose members are Ray jobs on a running cluster, called by `launch/sweep.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from rlhf.actors.jobs import RayJobs
from rlhf.config import CLASS, OnlineConfig, as_plain, compose
from rlhf.overrides import as_overrides, quoted
from rlhf.paths import FUNCTIONS, PATHS
from rlhf.stages.console import CONSOLE
from rlhf.stages.snapshots import sources_of
from rlhf.stages.template_date import with_template_date
from rlhf.sweeps.config import SweepRunConfig
from rlhf.sweeps.grid import grid, parse
from rlhf.sweeps.record import Member, State, open_sweep, root_of_sweep
from rlhf.sweeps.report import conclude_sweep
from rlhf.sweeps.scheduler import Scheduler
from rlhf.train.run_folder import CONFIG, RunFolder, check_config, check_free, flatten, is_finished


def run(arguments: Sequence[str], repository: Path) -> None:
    """Run every member in the cluster. Raises InputError before the first if any member's input is wrong."""
    conf = repository / "conf"
    arguments = as_overrides(arguments)
    own = [argument for argument in arguments if argument.startswith("sweep.")]
    config = compose(conf, "sweep_schema", own, SweepRunConfig).sweep
    members, configs = plan_members(conf, [argument for argument in arguments if argument not in own])
    root = Path(configs[members[0].name].output).parent
    for member in members:
        check_config(
            root / member.name / CONFIG, str(root / member.name), as_plain(with_template_date(configs[member.name]))
        )
        CONSOLE.print(f"member {member.name}", soft_wrap=True)
    if configs[members[0].name].dry_run:
        check_free(root_of_sweep(str(root)), str(root))
        return
    jobs = RayJobs(config.address, repository, ["python", "launch/ppo.py"])
    with open_sweep(str(root), members) as sweep:
        Scheduler(
            sweep=sweep,
            jobs=jobs,
            max_concurrent=config.max_concurrent,
            is_finished=lambda member: is_finished(
                RunFolder(sweep.folder(member)), configs[member.name].train.num_steps
            ),
            tell=tell,
        ).run(wait=lambda: time.sleep(config.poll_s))
        conclude_sweep(sweep)


def plan_members(conf: Path, overrides: Sequence[str]) -> tuple[list[Member], dict[str, OnlineConfig]]:
    """Return the members as jobs, with absolute paths and a folder each, and their configurations by name."""
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        parsed = zip(overrides, parse(overrides), strict=True)
        fixed = [argument for argument, override in parsed if not override.is_sweep_override()]
        params = hydra_compose("online", fixed, return_hydra_config=True).hydra.sweeper.params or {}
        members = grid([*(f"{key}={value}" for key, value in params.items()), *overrides])
    configs, jobs = {}, []
    for member in members:
        config = compose(conf, "online", list(member.overrides), OnlineConfig)
        output = quoted(str(Path(config.output).resolve() / member.name))
        job = replace(member, overrides=(*member.overrides, *absolute_paths(config), f"output={output}"))
        jobs.append(job)
        configs[job.name] = compose(conf, "online", list(job.overrides), OnlineConfig)
    return jobs, configs


def absolute_paths(config: OnlineConfig) -> list[str]:
    """Return overrides with absolute paths for all paths relative to this working directory: jobs have another one."""
    on_hub = {source.key for source in sources_of(config)}
    values = flatten(as_plain(config))
    read = [key for key in PATHS if values.get(key) is not None and key not in on_hub]
    paths = [f"{key}={quoted(absolute(values[key]))}" for key in read]
    named = {key: value for key in FUNCTIONS if isinstance(value := values.get(key), str) and ".py:" in value}
    paths += [f"{key}={quoted(absolute(spec))}" for key, spec in named.items()]
    functions = [quoted(absolute(name) if ".py:" in name else name) for name in config.reward.functions]
    own = values.get(f"algorithm.{CLASS}")
    method = [] if own is None else [f"algorithm={quoted(own)}"]
    return [*paths, *method, f"reward.functions=[{','.join(functions)}]"]


def absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def tell(member: Member) -> None:
    job = f", job {member.submission_id}" if member.state is State.running else ""
    error = f": {member.error}" if member.state is State.failed else ""
    CONSOLE.print(f"{member.name} {member.state}{job}{error}", soft_wrap=True, markup=False)
