"""Display of a run's inputs without a start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf.environments.base import as_rollout, unsampled
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.processes import RewardProcesses
from rlhf.stages.console import show_loss_masks, show_table
from rlhf.types import Failure, InputError, Prompt, Rollout, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TOKENISED, NUM_SCORED = 3, 5


def answer_rollout(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Rollout:
    """Return the rollout of a policy whose completion is the row's answer."""
    text = str(prompt.meta.get("answer", ""))
    answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return as_rollout(prompt, unsampled(answer, stop="stop", text=text))


def show_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> None:
    rollouts = [answer_rollout(tokenizer, prompt) for prompt in prompts[:NUM_TOKENISED]]
    show_loss_masks(tokenizer, [(rollout.token_ids, rollout.loss_mask) for rollout in rollouts])


async def try_rewards(
    config: RewardConfig, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, show: bool
) -> None:
    """Compute the reward of rows' own answers, in a process like those that score a run: of several rows with `show`,
    else of the first that has one.

    Raises InputError if all of them fail, so that a reward with a bug, or a server that is down or slow, is reported
    before accelerators wait for it.
    """
    processes = RewardProcesses(replace(config, num_processes=1, max_attempts=1))
    await processes.start()
    rows: list[tuple[str, ...]] = []
    scores: list[Score | Failure] = []
    for prompt in prompts[:NUM_SCORED]:
        rollout = answer_rollout(tokenizer, prompt)
        scores.append(await processes.score(prompt, rollout))
        rows.append((prompt.source, rollout.text[:60], *cells(scores[-1])))
        if not show and isinstance(scores[-1], Score):
            break
    await processes.close()
    if not any(isinstance(score, Score) for score in scores):
        raise InputError(f"no reward for the own answers of the first {len(scores)} rows, the last: {rows[-1][2]}")
    if show:
        show_table("Reward of the rows' own answers", ("row", "answer", "reward", "parts"), rows)


def cells(score: Score | Failure) -> tuple[str, str]:
    if isinstance(score, Failure):
        return f"{score.kind}: {score.message}", ""
    return f"{score.value:g}", ", ".join(f"{name} {value:g}" for name, value in score.parts.items())
