"""An engine that answers suites, as a Ray actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlhf.data.chat import render, tokenize_texts
from rlhf.data.template_clock import fix_date
from rlhf.models.causal_lm import read_model_config, vocab_size
from rlhf.models.chat_template import load_chat_tokenizer
from rlhf.models.tokenizer import special_ids_to_ban, stop_token_ids
from rlhf.runtimes.configs import Precision, SamplerConfig
from rlhf.runtimes.engines import make_engine
from rlhf.runtimes.protocols import Engine
from rlhf.types import Completion, InputError, Message, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSpec:
    """Specification of the engine."""

    model_path: str
    sampler: SamplerConfig
    precision: Precision
    chat_template: str | None
    chat_template_kwargs: Mapping[str, Any]
    template_date: str | None


class AnswerWorker:
    async def start(self, spec: AnswerSpec) -> None:
        self.spec = spec
        self.texts = PromptText.load(spec)
        model_config = read_model_config(spec.model_path)
        stop_ids = stop_token_ids(spec.model_path, self.texts.tokenizer)
        self.engine: Engine = make_engine(
            spec.model_path,
            spec.sampler,
            spec.precision,
            banned_token_ids=tuple(special_ids_to_ban(self.texts.tokenizer, vocab_size(model_config), stop_ids)),
            stop_token_ids=stop_ids,
            takes_turns=False,
            lora=None,
        )

    async def generate(self, messages: Sequence[Message], chat: bool, sampling: Sampling) -> Completion:
        """Return the model's answer, without its token arrays."""
        token_ids = self.texts.encode(messages, chat=chat)
        self.check_length(len(token_ids) + 1)
        room = self.spec.sampler.context_tokens - len(token_ids)
        limited = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        return await self.engine.generate(token_ids, limited)

    async def likelihood(self, messages: Sequence[Message], chat: bool, continuation: str) -> tuple[float, int]:
        """Return the logprob of a continuation, in nats, and its number of tokens."""
        token_ids, start = self.texts.encode_pair(messages, continuation, chat=chat)
        self.check_length(len(token_ids) + 1)
        logprobs = await self.engine.logprobs(token_ids)
        return float(logprobs[start:].sum(dtype="float64")), len(token_ids) - start

    def check_length(self, num_tokens: int) -> None:
        if num_tokens > self.spec.sampler.context_tokens:
            raise InputError(
                f"a prompt has {num_tokens - 1} tokens, and sampler.context_tokens={self.spec.sampler.context_tokens} "
                "leaves no room for an answer: raise it, or set fewer shots"
            )

    async def memory(self) -> int:
        return await self.engine.memory()

    async def close(self) -> None:
        await self.engine.close()


@dataclass(frozen=True, slots=True)
class PromptText:
    """Prompts and continuations as token ids."""

    tokenizer: PreTrainedTokenizerBase

    @staticmethod
    def load(spec: AnswerSpec) -> PromptText:
        tokenizer = load_chat_tokenizer(spec.model_path, spec.chat_template, spec.chat_template_kwargs)
        fix_date(tokenizer, spec.template_date)
        return PromptText(tokenizer)

    def text(self, messages: Sequence[Message], *, chat: bool) -> str:
        if chat:
            return render(self.tokenizer, messages, add_generation_prompt=True)
        return "".join(str(message["content"]) for message in messages)

    def encode(self, messages: Sequence[Message], *, chat: bool) -> tuple[int, ...]:
        """Return the token ids of a prompt. Plain text gets the special tokens that the tokenizer adds."""
        text = self.text(messages, chat=chat)
        if chat:
            return tokenize_texts(self.tokenizer, [text])[0]
        token_ids = tuple(self.tokenizer(text)["input_ids"])
        if not token_ids:
            raise InputError("a prompt has no token: give the suite a template with text")
        return token_ids

    def encode_pair(self, messages: Sequence[Message], continuation: str, *, chat: bool) -> tuple[tuple[int, ...], int]:
        """Return the token ids of a prompt with a continuation, and the index of the continuation's first token.

        Both are tokenised as one text, as the model would read it; the prompt's own tokens are a beginning of it unless
        a token spans the border, which then counts as the continuation's. The first token of a text has no likelihood.
        """
        prompt = self.text(messages, chat=chat) if messages else ""
        special = not (chat and messages)
        # Blanks before a word belong to its token.
        border = len(prompt.rstrip()) if special else len(prompt)
        encoded = self.tokenizer(prompt + continuation, add_special_tokens=special, return_offsets_mapping=True)
        token_ids = tuple(encoded["input_ids"])
        own = [i for i, (start, end) in enumerate(encoded["offset_mapping"]) if end > start and end > border]
        return token_ids, max(min(own, default=len(token_ids)), 1)
