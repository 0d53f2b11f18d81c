"""The policy as one episode sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from rlhf.data.next_turn import dialogue_ids, next_turn_ids
from rlhf.environments.base import Sampler
from rlhf.types import Completion, Message, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class EpisodeSampler:
    """An engine that gives each turn of an episode its own seed, and the chat template of the policy."""

    engine: Sampler
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    """Called once an environment encodes messages: a single turn needs no tokenizer."""
    prompt: Prompt
    temperature: float
    """Temperature at which the learner computes the logprobs of this episode."""
    turns: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """Number of completions of each sequence of tokens."""

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
        """Sample a turn. Raises ValueError for another temperature than the episode's."""
        if sampling.temperature != self.temperature:
            raise ValueError(
                f"a turn is sampled at temperature {sampling.temperature:g}, the episode at {self.temperature:g}, at "
                "which the policy learns: pass on the sampling that the environment was called with"
            )
        number, self.turns[token_ids] = self.turns[token_ids], self.turns[token_ids] + 1
        if number or token_ids != self.prompt.token_ids:
            sampling = replace(sampling, seed=turn_seed(sampling.seed, token_ids, number))
        return await self.engine.generate(token_ids, sampling)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return dialogue_ids(self.tokenizer(), messages, self.prompt.tools)

    def encode_turn(self, messages: Sequence[Message], *, closed: bool) -> tuple[int, ...]:
        return next_turn_ids(self.tokenizer(), messages, closed=closed, tools=self.prompt.tools)


def turn_seed(seed: int, token_ids: Sequence[int], number: int) -> int:
    """A seed, 63 bits, that follows from the episode's and from what the policy reads, whatever tools answered first;
    `number` tells completions of the same tokens apart."""
    read = np.array(token_ids, dtype=np.int32).tobytes()
    return xxhash.xxh3_64_intdigest(f"{seed}/{number}/".encode() + read) >> 1
