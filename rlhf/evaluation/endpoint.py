"""A model behind an OpenAI-compatible endpoint, as one that answers suites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlhf.causes import first_words
from rlhf.evaluation.ask import Request
from rlhf.evaluation.items import Answer, ChoiceLogprob
from rlhf.judges.config import EndpointConfig
from rlhf.judges.endpoint import TEMPLATE_TOKENS, EndpointClient, Trouble
from rlhf.judges.pace import Pace
from rlhf.types import Failure, InputError, RunError

T = TypeVar("T")


class EndpointModel:
    """The model of an endpoint. Bound to the event loop in which it is created."""

    def __init__(self, config: EndpointConfig, ledger_file: Path | None = None, pace: Pace | None = None) -> None:
        self.client = EndpointClient(config, config.api_key(), ledger_file=ledger_file, pace=pace)
        self.concurrency = config.concurrency
        self.model = config.model

    async def answer(self, request: Request) -> Answer:
        if not request.continuations:
            return await self.generate(request)
        if request.chat and request.messages:
            raise InputError(
                f"{self.client.name}.url={self.client.config.url}: an endpoint does not tell the likelihood of an "
                "answer in a chat template; set chat=false for the suite or form=generate, or evaluate a folder (model)"
            )
        context = "".join(str(message["content"]) for message in request.messages)
        choices = [await self.likelihood(context, each) for each in request.continuations]
        return Answer(item=request.item, sample=request.sample, choices=tuple(choices))

    async def generate(self, request: Request) -> Answer:
        body: dict[str, Any] = {"model": self.model, "temperature": request.temperature, "seed": request.seed}
        if request.chat:
            body |= {"messages": list(request.messages), "max_completion_tokens": request.max_tokens}
            path = "/chat/completions"
        else:
            prompt = "".join(str(message["content"]) for message in request.messages)
            body |= {"prompt": prompt, "max_tokens": request.max_tokens}
            path = "/completions"

        def read(answer: Any, text: str) -> Answer | Trouble:
            match answer:
                case {"choices": [{"message": {"content": str() | None as content}, "finish_reason": str() as stop}]}:
                    pass
                case {"choices": [{"text": str() as content, "finish_reason": str() as stop}]}:
                    pass
                case _:
                    return Trouble("invalid", f"answered {first_words(text)}: it must be a completion", again=False)
            usage = answer.get("usage") or {}
            return Answer(
                item=request.item,
                sample=request.sample,
                text=content or "",
                stop=stop,
                num_tokens=int(usage.get("completion_tokens") or 0),
            )

        return self.or_error(await self.client.send(path, body, self.largest_cost(body, request.max_tokens), read))

    async def likelihood(self, context: str, continuation: str) -> ChoiceLogprob:
        """Return the likelihood of a text after a context, from the logprobs of the echoed prompt."""
        body = {
            "model": self.model,
            "prompt": context + continuation,
            "max_tokens": 1,
            "temperature": 0.0,
            "echo": True,
            "logprobs": 1,
        }

        def read(answer: Any, text: str) -> ChoiceLogprob | Trouble:
            match answer:
                case {"choices": [{"logprobs": {"token_logprobs": [*logprobs], "text_offset": [*offsets]}}]}:
                    return _after(logprobs, offsets, len(context), len(context) + len(continuation))
            problem = f"answered {first_words(text)}: it must echo the prompt with logprobs (`echo`, `logprobs`)"
            return Trouble("invalid", problem, again=False)

        return self.or_error(await self.client.send("/completions", body, self.largest_cost(body, 1), read))

    def largest_cost(self, body: Mapping[str, Any], max_tokens: int) -> float:
        """Return a bound on the cost of a request: a token of a text has at least one byte."""
        num_messages = len(body.get("messages", ()))
        return self.client.price(len(json.dumps(body)) + TEMPLATE_TOKENS * num_messages, max_tokens)

    def or_error(self, outcome: T | Failure) -> T:
        if isinstance(outcome, Failure):
            raise RunError(f"{outcome.message}; the same command continues with the answers it has")
        return outcome

    async def close(self) -> None:
        await self.client.close()


def _after(logprobs: list[Any], offsets: list[Any], start: int, end: int) -> ChoiceLogprob:
    """Sum the logprobs of the tokens that begin in the continuation. The first token of a text has none."""
    own = [logprob for logprob, offset in zip(logprobs, offsets, strict=True) if start <= offset < end]
    known = [float(logprob) for logprob in own if logprob is not None]
    return ChoiceLogprob(logprob=sum(known), num_tokens=len(known))
