"""The interface of an environment, and the functions by which one writes the rows of an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from rlhf.types import Completion, Episode, Message, Prompt, Rollout, Sampling, Speaker, Turn


class Sampler(Protocol):
    """Token ids in, token ids out."""

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion: ...


class ChatSampler(Sampler, Protocol):
    """A sampler that knows the chat template of its model."""

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a dialogue in the policy's chat template, up to where the policy's turn begins."""

    def encode_turn(self, messages: Sequence[Message], *, closed: bool) -> tuple[int, ...]:
        """Token ids of messages that follow a turn of the policy, up to where its next one begins. `closed`: the policy
        ended its turn; otherwise it was cut, and the token that ends it comes first."""


class Environment(Protocol):
    """An episode from a prompt: a coroutine function, or a class whose instances have such a `__call__`.

    Runs on the engine's event loop: what blocks goes through `asyncio.to_thread`. Whatever it raises is a failure, and
    is tried again with another seed.
    """

    async def __call__(self, prompt: Prompt, sampler: ChatSampler, sampling: Sampling) -> Episode: ...


def start(prompt: Prompt, token_ids: Sequence[int] | None = None) -> Rollout:
    """Return a row that holds the prompt alone; `token_ids` take its place in an episode's further rows."""
    ids: np.ndarray = np.array(prompt.token_ids if token_ids is None else token_ids, dtype=np.int32)
    return Rollout(
        prompt_id=prompt.id,
        token_ids=ids,
        loss_mask=np.zeros(len(ids), dtype=bool),
        logprobs=np.zeros(len(ids), dtype=np.float32),
        versions=np.full(len(ids), -1, dtype=np.int32),
        stop="abort",
        text="",
    )


async def act(row: Rollout, sampler: Sampler, sampling: Sampling) -> Rollout:
    """Return the row with the policy's next turn."""
    return append_completion(row, await sampler.generate(tuple(row.token_ids.tolist()), sampling))


def observe(row: Rollout, sampler: ChatSampler, messages: Sequence[Message]) -> Rollout:
    """Return the row with a turn of the environment: messages that follow the policy's last turn."""
    if isinstance(messages, str | Mapping):
        raise TypeError(f"observe got {messages!r}: give a list of messages, [{{'role': ..., 'content': ...}}]")
    return append_observation(row, sampler.encode_turn(messages, closed=row.stop == "stop"), messages)


def append_completion(row: Rollout, completion: Completion) -> Rollout:
    """Return the row with a turn of the policy, which is learnt from."""
    turn: Message = {"role": "assistant", "content": completion.text}
    longer = _append(row, completion, "policy", [turn])
    return replace(longer, stop=completion.stop, text=completion.text)


def append_observation(row: Rollout, token_ids: Sequence[int], messages: Sequence[Message] = ()) -> Rollout:
    """Return the row with a turn of the environment, masked."""
    unchosen = replace(unsampled(token_ids, stop="", text=""), versions=np.full(len(token_ids), -1, dtype=np.int32))
    return _append(row, unchosen, "environment", messages)


def _append(row: Rollout, tokens: Completion, speaker: Speaker, messages: Sequence[Message]) -> Rollout:
    first, last = len(row.token_ids), len(row.token_ids) + len(tokens.token_ids)
    return replace(
        row,
        token_ids=np.concatenate([row.token_ids, tokens.token_ids]),
        loss_mask=np.concatenate([row.loss_mask, np.full(last - first, speaker == "policy")]),
        logprobs=np.concatenate([row.logprobs, tokens.logprobs]),
        versions=np.concatenate([row.versions, tokens.versions]),
        turns=(*row.turns, Turn(speaker=speaker, start=first, stop=last, messages=tuple(messages))),
    )


def unsampled(token_ids: Sequence[int], *, stop: str, text: str) -> Completion:
    """A completion no engine gave: logprobs and versions 0."""
    return Completion(
        token_ids=np.array(token_ids, dtype=np.int32),
        logprobs=np.zeros(len(token_ids), dtype=np.float32),
        versions=np.zeros(len(token_ids), dtype=np.int32),
        stop=stop,
        text=text,
    )
