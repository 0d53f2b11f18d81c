"""The teacher of a run: its workers, and its checks before accelerators are held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlhf.actors.learner_worker import LearnerSpec
from rlhf.actors.plan import RolePlan
from rlhf.config import OnlineConfig
from rlhf.data.chat import turn_end_id
from rlhf.models.causal_lm import context_length, read_model_config, refuse_experts, vocab_size
from rlhf.models.heads import Head, config_for
from rlhf.models.reward_model import check_vocabulary
from rlhf.models.tokenizer import eos_token_ids, load_tokenizer, special_ids_to_ban, stop_token_ids
from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def plan_teacher(config: OnlineConfig) -> list[RolePlan]:
    """Return the plan of the teacher's workers; empty for an algorithm without a teacher. Raises InputError if
    algorithm, teacher and placement contradict each other."""
    num_workers, model = config.placement.teacher, config.teacher.model
    name = type(config.algorithm).__name__.removesuffix("Config")
    given = f"placement.teacher={num_workers}, teacher.model={model}"
    if not config.algorithm.reads_teacher:
        if num_workers or model is not None:
            raise InputError(f"{given}: {name} has no teacher; leave both null, or use algorithm=distill")
        return []
    if model is None:
        raise InputError(
            f"{given}: {name} learns from a teacher; set teacher.model to its folder or id of the Hub, a model with "
            "the policy's vocabulary"
        )
    if num_workers == 0:
        raise InputError(f"{given}: give the teacher at least 1 accelerator, or leave placement.teacher null")
    return [RolePlan(role="teacher", num_workers=1 if num_workers is None else num_workers)]


def check_teacher(config: OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check the teacher's folder. Raises InputError if it cannot judge the policy's tokens, or never ends an answer as
    the policy does."""
    path, context = config.teacher.model, config.sampler.context_tokens
    if path is None:
        return
    model_config = read_model_config(path)
    refuse_experts(path, model_config)
    config_for(path, Head.causal_lm)
    check_vocabulary("teacher.model", path, config.model, tokenizer)
    longest = context_length(model_config)
    if longest < context:
        raise InputError(
            f"teacher.model={path}: it was made for {longest} tokens, a row may have sampler.context_tokens={context}; "
            "lower that, or choose another teacher"
        )
    own, end = load_tokenizer(path), turn_end_id(tokenizer)
    ends = stop_token_ids(path, own) if own.chat_template else eos_token_ids(path, own)
    if end not in ends:
        words = ", ".join(map(repr, own.convert_ids_to_tokens(list(ends))))
        raise InputError(
            f"teacher.model={path}: it ends answers with {words}, the policy with "
            f"{tokenizer.convert_ids_to_tokens(end)!r}, so it would teach never to end; set chat_template to the "
            "teacher's, or choose another teacher"
        )


def with_own_rows(spec: LearnerSpec, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> LearnerSpec:
    """Return the specification with the bans of its own embedding, which may have more or fewer unused rows than the
    policy's: logprobs are over the tokens that the policy samples from."""
    banned = special_ids_to_ban(tokenizer, vocab_size(read_model_config(spec.model_path)), stop_ids)
    return replace(spec, distribution=replace(spec.distribution, banned_token_ids=tuple(banned)))
