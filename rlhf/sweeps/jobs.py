"""A sweep whose members are Ray jobs on a running cluster, called by `launch/sweep.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rlhf.actors.jobs import RayJobs
from rlhf.config import as_plain, compose
from rlhf.overrides import as_overrides
from rlhf.stages.console import CONSOLE
from rlhf.stages.template_date import with_template_date
from rlhf.sweeps.config import SweepConfig, SweepRunConfig, check_search_keys
from rlhf.sweeps.grid import member_of
from rlhf.sweeps.plan import Plan
from rlhf.sweeps.record import SWEEP, Member, State, open_sweep, read_sweep, root_of_sweep
from rlhf.sweeps.report import conclude_sweep
from rlhf.sweeps.scheduler import Listed, Scheduler
from rlhf.sweeps.search import Search
from rlhf.sweeps.space import space_of
from rlhf.train.run_folder import CONFIG, RunFolder, check_config, check_free, is_finished


def run(arguments: Sequence[str], repository: Path) -> None:
    """Run every member in the cluster. Raises InputError before the first if any member's input is wrong."""
    conf = repository / "conf"
    arguments = as_overrides(arguments)
    own = [argument for argument in arguments if argument.startswith("sweep.")]
    config = compose(conf, "sweep_schema", own, SweepRunConfig).sweep
    check_search_keys(config, own)
    plan = Plan.of(conf, [argument for argument in arguments if argument not in own])
    search = plan_search(config, plan) if config.search else None
    members = plan.listed() if search is None else search.restore(members_before(plan.root))
    for name, member_config in plan.configs.items():
        check_config(plan.root / name / CONFIG, str(plan.root / name), as_plain(with_template_date(member_config)))
    describe(plan, search, members)
    if plan.sample.dry_run:
        check_free(root_of_sweep(str(plan.root)), str(plan.root))
        return
    jobs = RayJobs(config.address, repository, ["python", "launch/ppo.py"])
    with open_sweep(str(plan.root), members) as sweep:
        Scheduler(
            sweep=sweep,
            jobs=jobs,
            max_concurrent=config.max_concurrent,
            is_finished=lambda member: is_finished(
                RunFolder(sweep.folder(member)), plan.configs[member.name].train.num_steps
            ),
            tell=tell,
            source=search or Listed(),
        ).run(wait=lambda: time.sleep(config.poll_s))
        conclude_sweep(sweep, search)


def plan_search(config: SweepConfig, plan: Plan) -> Search:
    """Return the search of a plan. Raises InputError if a member at an end of its space would be wrong."""
    search = Search(config=config, space=space_of(plan.overrides), make=plan.tolerant_job)
    for values in search.corners():
        plan.job(member_of(plan.overrides, values))
    return search


def members_before(root: Path) -> list[Member]:
    """Return the members of an earlier call, in the order in which they were drawn."""
    return read_sweep(root).members if (root / SWEEP).is_file() else []


def describe(plan: Plan, search: Search | None, members: Sequence[Member]) -> None:
    for member in members:
        CONSOLE.print(f"member {member.name}", soft_wrap=True)
    if search is not None:
        num_left = max(search.config.num_trials - len(members), 0)
        keys = ", ".join(search.space)
        CONSOLE.print(f"{num_left} members to be drawn, {search.config.sampler} over {keys}", soft_wrap=True)


def tell(member: Member) -> None:
    job = f", job {member.submission_id}" if member.state is State.running else ""
    error = f": {member.error}" if member.state is State.failed else ""
    CONSOLE.print(f"{member.name} {member.state}{job}{error}", soft_wrap=True, markup=False)
