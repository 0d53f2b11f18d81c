"""Execution of a pipeline's stages, called by `launch/pipeline.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

from rlhf.actors.plan import Plan
from rlhf.evaluation.gate_checks import State as Verdict
from rlhf.evaluation.gates import EXIT_CODES
from rlhf.pipelines.config import PipelineConfig
from rlhf.pipelines.kinds import load
from rlhf.pipelines.plan import Step, errors_of_stage, steps_of
from rlhf.pipelines.record import Pipeline, Stage, State, open_pipeline, root_of_pipeline, seconds_before
from rlhf.pipelines.report import figures_of, show_stages, write_report
from rlhf.stages.console import CONSOLE
from rlhf.train.artifact import open_artifact
from rlhf.train.run_folder import check_free


def run(config: PipelineConfig, conf: Path) -> int:
    """Run every stage whose artifact does not exist yet, in order, without those that an evaluation's gate blocks.
    Return the exit code of the worst verdict. Raises InputError before the first stage if any is invalid."""
    steps = steps_of(config, conf)
    if config.dry_run:
        check_free(root_of_pipeline(config.output), config.output)
        dry_run(steps)
        return 0
    stages = {step.name: Stage(kind=step.kind_name, parents=step.parents) for step in steps}
    with open_pipeline(config.output, stages) as pipeline, ExitStack() as stack:
        for number, step in enumerate(steps, start=1):
            CONSOLE.rule(f"{number} of {len(steps)}: {step.name} ({step.kind_name})", align="left")
            if blocking := [parent for parent in step.parents if blocks(pipeline.stages[parent])]:
                pipeline.record(step.name, state=State.blocked)
                CONSOLE.print(f"not run: {', '.join(blocking)} did not pass", soft_wrap=True)
                continue
            make(pipeline, step.with_inputs(), lambda: stack.enter_context(one_cluster(steps)))
    write_report(pipeline)
    return exit_code([stage.verdict for stage in pipeline.stages.values()])


def blocks(stage: Stage) -> bool:
    """Return whether stages that need this one cannot run."""
    return stage.state is State.blocked or stage.verdict not in (None, Verdict.passed)


def exit_code(verdicts: Sequence[str | None]) -> int:
    """Return the exit code of the worst verdict: failed, then undecided or awaiting people, then passed."""
    worst = (each for each in Verdict if each is not Verdict.passed and each in verdicts)
    return EXIT_CODES[next(worst, Verdict.passed)]


def make(pipeline: Pipeline, step: Step, start_cluster: Callable[[], None]) -> None:
    """Run a stage, or keep the artifact that an earlier call made from the same configuration and inputs."""
    name = step.name
    spent = seconds_before(pipeline.stages[name], step.fingerprint)
    pipeline.record(name, fingerprint=step.fingerprint, seconds=spent)
    if step.is_made:
        with errors_of_stage(name):
            open_artifact(step.artifact)
        pipeline.record(name, state=State.kept, **figures_of(step))
        CONSOLE.print(f"{step.artifact} is kept: configuration and inputs are the same.", soft_wrap=True)
        return
    if step.is_of_another:
        aside = pipeline.set_aside(name)
        CONSOLE.print(f"the results of other inputs are in {aside} now, and may be removed", soft_wrap=True)
    pipeline.record(name, state=State.running)
    start, state = time.perf_counter(), State.stopped
    try:
        with errors_of_stage(name):
            if plan_of(step) is not None:
                start_cluster()
            load(step.kind.run)(step.config)
        state = State.made
    finally:
        pipeline.record(name, state=state, seconds=spent + time.perf_counter() - start, **figures_of(step))


def one_cluster(steps: Sequence[Step]) -> AbstractContextManager[None]:
    """Start a cluster that is large enough for every stage; inside an existing cluster, use that one."""
    from rlhf.actors.placement import cluster

    return cluster(*(plan for step in steps if (plan := plan_of(step)) is not None))


def plan_of(step: Step) -> Plan | None:
    """Return the accelerators that a stage takes; None if it takes none."""
    plan: Plan | None = load(step.kind.plan)(step.config) if step.kind.plan is not None else None
    return plan if plan is not None and plan.groups else None


def dry_run(steps: Sequence[Step]) -> None:
    """Print for each stage whether it would run, and check the stages whose inputs exist."""
    stale: dict[str, str] = {}
    checked = []
    for step in steps:
        above = [parent for parent in step.parents if parent in stale]
        if above:
            stale[step.name] = f"to be made after {', '.join(above)}"
        elif not (step := step.with_inputs()).is_made:
            stale[step.name] = "to be made"
            checked.append(step)
    show_stages([(step, stale.get(step.name, "kept")) for step in steps])
    for step in checked:
        CONSOLE.rule(f"{step.name} ({step.kind_name})", align="left")
        # Results of other inputs would be set aside first.
        folder = step.folder.with_name(f".new-{step.name}") if step.is_of_another else step.folder
        with errors_of_stage(step.name):
            load(step.kind.run)(replace(step.config, dry_run=True, output=str(folder)))
