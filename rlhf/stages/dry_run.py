"""What a run would see, shown without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf.environments.base import as_rollout, unsampled
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.processes import RewardProcesses
from rlhf.stages.report import show_loss_masks, show_table
from rlhf.types import Prompt, Rollout, Score

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
    """The reward of rows' own answers, in the processes that score a run."""
    processes = RewardProcesses(config)
    await processes.start()
    rows = []
    for prompt in prompts[:NUM_SCORED]:
        rollout = answer_rollout(tokenizer, prompt)
        score = await processes.score(prompt, rollout)
        shown = f"{score.value:g}" if isinstance(score, Score) else f"{score.kind}: {score.message}"
        parts = ", ".join(f"{k} {v:g}" for k, v in score.parts.items()) if isinstance(score, Score) else ""
        rows.append((prompt.source, rollout.text[:60], shown, parts))
    await processes.close()
    show_table("Reward of the rows' own answers", ("row", "answer", "reward", "parts"), rows)
