"""What a run would see, shown without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf.environments.base import as_rollout, unsampled
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.processes import RewardProcesses
from rlhf.stages.report import show_loss_masks, show_table
from rlhf.types import Failure, InputError, Prompt, Rollout, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TOKENISED, NUM_SCORED = 3, 5


def answer_rollout(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Rollout:
    """The rollout of a policy that gives the row's own answer."""
    text = str(prompt.meta.get("answer", ""))
    answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return as_rollout(prompt, unsampled(answer, stop="stop", text=text))


def show_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> None:
    rollouts = [answer_rollout(tokenizer, prompt) for prompt in prompts[:NUM_TOKENISED]]
    show_loss_masks(tokenizer, [(rollout.token_ids, rollout.loss_mask) for rollout in rollouts])


async def try_rewards(config: RewardConfig, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> None:
    """The reward of rows' own answers, in a process like those that score a run.

    Raises InputError where all of them fail, so that a reward with a bug, or a server that is down or slow, is told
    before accelerators wait for it.
    """
    processes = RewardProcesses(replace(config, num_processes=1, max_attempts=1))
    await processes.start()
    tried = [(prompt, answer_rollout(tokenizer, prompt)) for prompt in prompts[:NUM_SCORED]]
    scores = [await processes.score(prompt, rollout) for prompt, rollout in tried]
    await processes.close()
    last = scores[-1]
    if isinstance(last, Failure) and not any(isinstance(score, Score) for score in scores):
        raise InputError(
            f"no reward for the own answers of the first {len(scores)} rows, the last: {last.kind}: {last.message}"
        )
    rows = [
        (prompt.source, rollout.text[:60], *cells(score))
        for (prompt, rollout), score in zip(tried, scores, strict=True)
    ]
    show_table("Reward of the rows' own answers", ("row", "answer", "reward", "parts"), rows)


def cells(score: Score | Failure) -> tuple[str, str]:
    if isinstance(score, Failure):
        return f"{score.kind}: {score.message}", ""
    return f"{score.value:g}", ", ".join(f"{name} {value:g}" for name, value in score.parts.items())
