"""Answers to all suites of an evaluation, from engines or an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlhf.actors.placement import cluster, reserved
from rlhf.data.template_clock import writes_date
from rlhf.evaluation.ask import AnswerFile, AnswerModel, ask, requests_of
from rlhf.evaluation.endpoint import EndpointModel
from rlhf.evaluation.items import Answer
from rlhf.evaluation.suite import Suite
from rlhf.evaluation_config import EvaluationConfig
from rlhf.models.chat_template import load_chat_tokenizer
from rlhf.stages.console import CONSOLE
from rlhf.stages.evaluation.models import engine_model, plan_roles
from rlhf.stages.inputs import content_hash
from rlhf.stages.start import check_machines

NUM_LINES = 10
"""Lines about the progress of a suite where there is no terminal."""


def ask_all(config: EvaluationConfig, suites: Sequence[Suite], root: Path) -> dict[str, list[Answer]]:
    """Return the answers by suite. Nothing is started if all were given before."""
    whose = identity_of(config)
    files = {
        suite.name: AnswerFile(Path(config.answers), suite.name, {**whose, "suite": suite.digest, "seed": config.seed})
        for suite in suites
    }
    if all(is_complete(suite, files[suite.name], config.seed) for suite in suites):
        CONSOLE.print(f"all answers are in {config.answers}", soft_wrap=True)
        return asyncio.run(ask_suites(suites, files, None, config.seed))
    if config.model is None:
        return asyncio.run(ask_endpoint(config, suites, files, root))
    plan = plan_roles(config)
    with cluster(plan):
        check_machines(config, root)
        with reserved(plan, config.placement.timeout_s) as bundles:

            async def ask_engines() -> dict[str, list[Answer]]:
                async with engine_model(config, plan, bundles) as model:
                    return await ask_suites(suites, files, model, config.seed)

            return asyncio.run(ask_engines())


async def ask_endpoint(
    config: EvaluationConfig, suites: Sequence[Suite], files: dict[str, AnswerFile], root: Path
) -> dict[str, list[Answer]]:
    model = EndpointModel(config.endpoint, root / "cost.jsonl")
    try:
        return await ask_suites(suites, files, model, config.seed)
    finally:
        counted = model.client.take_figures()
        cost = counted["endpoint/total_cost"]
        CONSOLE.print(f"{counted['endpoint/requests']:.0f} requests, cost {cost:.4g} so far", soft_wrap=True)
        await model.close()


async def ask_suites(
    suites: Sequence[Suite], files: dict[str, AnswerFile], model: AnswerModel | None, seed: int
) -> dict[str, list[Answer]]:
    answers = {}
    for suite in suites:
        with progress(suite) as bar:
            answers[suite.name] = await ask(suite, model, files[suite.name], seed=seed, advance=bar.advance)
    return answers


def is_complete(suite: Suite, file: AnswerFile, seed: int) -> bool:
    return all((each.item, each.sample) in file.answers for each in requests_of(suite, seed))


def identity_of(config: EvaluationConfig) -> dict[str, Any]:
    """Return everything besides the suite that answers depend on."""
    if config.model is None:
        return {"endpoint": config.endpoint.url, "model": config.endpoint.model}
    tokenizer = load_chat_tokenizer(config.model, config.chat_template, config.chat_template_kwargs)
    return {
        "model": content_hash("model", Path(config.model)),
        "precision": str(config.backend.precision),
        "engine": config.sampler.engine,
        "chat_template": tokenizer.chat_template,
        "template_date": config.template_date if writes_date(tokenizer) else None,
    }


@contextmanager
def progress(suite: Suite) -> Iterator[SuiteProgress]:
    """Show the progress of a suite."""
    total = len(suite.items) * suite.config.samples
    bar = SuiteProgress(suite.name, total)
    with bar.progress:
        yield bar


class SuiteProgress:
    """A bar on a terminal; otherwise a line every tenth of the suite."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done = name, total, 0
        columns = (TextColumn(name), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=CONSOLE, disable=not CONSOLE.is_terminal)
        self.task = self.progress.add_task(name, total=total)

    def advance(self, count: int) -> None:
        tenth = max(self.total // NUM_LINES, 1)
        before, self.done = self.done // tenth, self.done + count
        self.progress.update(self.task, completed=self.done)
        if not CONSOLE.is_terminal and self.done // tenth > before:
            CONSOLE.print(f"{self.name}: {self.done}/{self.total} answers", soft_wrap=True)
