"""Episodes of one prompt, each scored as soon as it ends. Runs beside the engine."""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import xxhash

from rlhf.environments.base import Environment, Sampler, start
from rlhf.environments.sampler import EpisodeSampler
from rlhf.ops.repetition import repetition
from rlhf.rewards.base import describe, finite_number
from rlhf.types import Episode, EpisodeInfo, Failure, Prompt, Rollout, Row, RunError, Sampling, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


INTEGERS, BOOLEANS, FLOATS = ("iu", "integers"), ("b", "booleans"), ("f", "floats")
KINDS = {
    "token_ids": INTEGERS,
    "loss_mask": BOOLEANS,
    "logprobs": FLOATS,
    "versions": INTEGERS,
    "token_rewards": FLOATS,
}
"""Kinds of a row's arrays, as numpy's `dtype.kind` has them, and in words."""


class Rewards(Protocol):
    async def score(self, prompt: Prompt, rollout: Rollout) -> Score | Failure:
        """The reward of an episode, from its last row."""


class GroupJudge(Protocol):
    async def judge(self, prompt: Prompt, episodes: Sequence[Episode]) -> None:
        """Add to the scores of a group once all its episodes have ended."""


def rollout_seed(run_seed: int, prompt_id: str, epoch: int, sample: int, attempt: int) -> int:
    """A seed that follows from what the episode is, whatever ran before it: 63 bits."""
    return xxhash.xxh3_64_intdigest(f"{run_seed}/{prompt_id}/{epoch}/{sample}/{attempt}".encode()) >> 1


@dataclass(slots=True, kw_only=True)
class RolloutCollector:
    """Samples and scores groups."""

    sampler: Sampler
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    """Tokenizer of the policy, for environments that write messages."""
    context_tokens: int
    """Tokens that a row may have."""
    environment: Environment
    environment_name: str
    """The environment as the user gave it, for messages."""
    rewards: Rewards | None
    """None: the judges alone score."""
    run_seed: int
    max_attempts: int
    """Most attempts at an episode whose environment raises."""
    judges: Sequence[GroupJudge] = ()
    """A reward model, and a judge behind an endpoint, if there are any."""

    async def collect(
        self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]
    ) -> tuple[list[Rollout], list[EpisodeInfo]]:
        """The group of one prompt: the rows of all its episodes, and the episodes in the order of `requests`."""
        played = await asyncio.gather(*(self.play(prompt, epoch, i, request) for i, request in enumerate(requests)))
        for judge in self.judges:
            await judge.judge(prompt, [episode for episode, has_own_score in played if not has_own_score])
        rows: list[Rollout] = []
        infos: list[EpisodeInfo] = []
        for i, ((episode, _), request) in enumerate(zip(played, requests, strict=True)):
            infos.append(info_of(episode, f"{prompt.id}/{epoch}/{i}", prompt.source, request.trained, len(rows)))
            rows += episode.rows
        return rows, infos

    async def play(self, prompt: Prompt, epoch: int, sample: int, request: Sampling) -> tuple[Episode, bool]:
        """One episode with its score, or with the failure of its last attempt; True if the environment scored it."""
        request = replace(request, max_tokens=min(request.max_tokens, prompt.max_tokens or request.max_tokens))
        for attempt in range(self.max_attempts):
            seed = rollout_seed(self.run_seed, prompt.id, epoch, sample, attempt)
            sampler = EpisodeSampler(self.sampler, self.tokenizer, prompt, request.temperature)
            try:
                episode = await self.environment(own_copy(prompt), sampler, replace(request, seed=seed))
                check_episode(episode, prompt, self.context_tokens)
                episode = replace(episode, score=plain_score(episode.score))
            except UnfitEpisode as unfit:
                failure = Failure(kind="environment", message=f"environment={self.environment_name} returned {unfit}")
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  what it raises is its failure
                raise_if_ended(error)
                failure = Failure(kind="environment", message=describe(error))
            else:
                if episode.score is not None:
                    return episode, True
                score = await self.rewards.score(prompt, episode.rows[-1]) if self.rewards else Score(value=0.0)
                return replace(episode, score=score), False
        # An episode that never ended: its prompt alone, nothing to learn from.
        return Episode(rows=[start(prompt)], score=failure), True


def own_copy(prompt: Prompt) -> Prompt:
    """Return the prompt for one attempt: what an environment appends to its messages stays out of other episodes and
    of the rewards."""
    messages, meta, tools = deepcopy((prompt.messages, prompt.meta, prompt.tools))
    return replace(prompt, messages=messages, meta=meta, tools=tools)


def raise_if_ended(error: BaseException) -> None:
    """Raise the error if no further attempt helps: the engine is gone, or this task, not one of the environment's own,
    was cancelled."""
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
    found = error.subgroup(RunError) if isinstance(error, BaseExceptionGroup) else error
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if isinstance(found, RunError):
        raise found


class UnfitEpisode(Exception):
    """The value that an environment returned cannot be used; the text completes `environment=NAME returned ...`."""


def plain_score(score: Score | Failure | None) -> Score | Failure | None:
    """Return an environment's own score with Python's floats and texts, which metrics and logs need. Raises
    UnfitEpisode."""
    if isinstance(score, Failure):
        return Failure(kind=str(score.kind), message=str(score.message))
    if score is None:
        return None
    if not isinstance(score.parts, Mapping):
        raise UnfitEpisode(f"a score with the parts {reprlib.repr(score.parts)}: give a dict of numbers by name")
    numbers = {"value": score.value, **{f"part {name}": part for name, part in score.parts.items()}}
    for name, number in numbers.items():
        if finite_number(number) is None:
            raise UnfitEpisode(f"a score with {name} {reprlib.repr(number)}: give a finite number")
    return Score(value=float(score.value), parts={str(name): float(part) for name, part in score.parts.items()})


def check_episode(episode: Episode, prompt: Prompt, context_tokens: int) -> None:
    """Raise UnfitEpisode unless the learner can use the episode: rows of another shape would fail there, too late."""
    if not isinstance(episode, Episode) or not isinstance(episode.rows, Sequence) or not episode.rows:
        raise UnfitEpisode(f"{reprlib.repr(episode)}: return an Episode with at least one row, in a list")
    if not isinstance(episode.score, Score | Failure | None):
        raise UnfitEpisode(f"the score {reprlib.repr(episode.score)}: give a Score, a Failure or None")
    for i, row in enumerate(episode.rows):
        if not isinstance(row, Rollout):
            raise UnfitEpisode(f"rows[{i}] = {reprlib.repr(row)}: give a row that `start`, `act` and `observe` return")
        check_columns(i, row)
        num_tokens = len(row.token_ids)
        if num_tokens == 0 or row.loss_mask[0]:
            raise UnfitEpisode(f"rows[{i}], which begins with a token of the policy: begin it with those of a prompt")
        if row.prompt_id != prompt.id:
            raise UnfitEpisode(
                f"rows[{i}] of prompt {row.prompt_id}, not of {prompt.id}: begin it with `start(prompt)`"
            )
        if num_tokens > context_tokens:
            raise UnfitEpisode(
                f"rows[{i}] with {num_tokens} tokens, more than sampler.context_tokens={context_tokens}: end it earlier"
            )


def check_columns(i: int, row: Rollout) -> None:
    """Raise UnfitEpisode for arrays or turns that are not what `Rollout` documents: a mask of numbers would select by
    place."""
    for name, (kinds, words) in KINDS.items():
        column = getattr(row, name)
        if column is None and name == "token_rewards":
            continue
        if not isinstance(column, np.ndarray) or column.dtype.kind not in kinds:
            given = column.dtype if isinstance(column, np.ndarray) else type(column).__name__
            raise UnfitEpisode(f"rows[{i}], whose {name} is {given}: give a numpy array of {words}")
        if column.shape != (row.token_ids.size,):
            raise UnfitEpisode(
                f"rows[{i}] with {row.token_ids.size} tokens and {name} of the shape {column.shape}: append turns as a "
                "whole"
            )
    if (row.token_ids < 0).any():
        raise UnfitEpisode(f"rows[{i}] with a negative token id: give ids of the policy's tokenizer")
    if not np.isfinite(row.logprobs[row.loss_mask]).all():
        raise UnfitEpisode(f"rows[{i}] with a logprob that is not finite: give the engine's")
    end = 0
    for turn in row.turns:
        if not end <= turn.start <= turn.stop <= len(row.token_ids):
            raise UnfitEpisode(
                f"rows[{i}] with {len(row.token_ids)} tokens and a turn from {turn.start} to {turn.stop}: give turns "
                "in their order, within the row"
            )
        end = turn.stop


def info_of(episode: Episode, episode_id: str, source: str, trained: bool, first_index: int) -> EpisodeInfo:
    """Return what the driver needs of an episode, whose first row is the group's row `first_index`."""
    assert episode.score is not None
    chosen = np.concatenate([row.versions[row.loss_mask] for row in episode.rows])
    return EpisodeInfo(
        id=episode_id,
        prompt_id=episode.rows[-1].prompt_id,
        source=source,
        rows=tuple(
            Row(
                group=0,
                index=index,
                num_tokens=len(row.token_ids),
                num_loss_tokens=int(row.loss_mask.sum()),
                episode=episode_id,
            )
            for index, row in enumerate(episode.rows, start=first_index)
        ),
        score=episode.score,
        stop=episode.rows[-1].stop,
        versions=(int(chosen.min()), int(chosen.max())) if len(chosen) else (-1, -1),
        trained=trained,
        repetition=repetition([(row.token_ids, row.loss_mask) for row in episode.rows]),
    )
