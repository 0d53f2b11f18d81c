"""Client of a judge: a language model behind an OpenAI-compatible chat endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.causes import first_words
from rlhf.judges.config import JudgeConfig, ResponseFormat
from rlhf.judges.endpoint import TEMPLATE_TOKENS, EndpointClient, Trouble
from rlhf.types import Failure, Message

PATH = "/chat/completions"


class JudgeClient(EndpointClient):
    """The only sender of a run's requests to its judge."""

    config: JudgeConfig
    failure_kinds = "reward"

    async def ask(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> str | Failure:
        """Return the judge's reply to the messages; `schema` is the JSON schema that it should have.

        Returns a Failure if no reply came. Raises RunError once the budget is used up.
        """
        body = self.body(messages, schema)
        return await self.send(PATH, body, self.largest_cost(body), self.reply)

    def reply(self, answer: Any, text: str) -> str | Trouble:
        """Return the text of a response."""
        match answer:
            case {"choices": [{"finish_reason": "length"}]}:
                limit = f"{self.name}.max_tokens={self.config.max_tokens}"
                return Trouble("invalid", f"ended at {limit} within its reply: raise it", again=False)
            case {"choices": [{"message": {"content": str() as reply}}]} if reply.strip():
                return reply
        problem = f"answered {first_words(text)}: it must be a chat completion with a text"
        return Trouble("invalid", problem, again=False)

    def body(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        config = self.config
        form: dict[str, Any] = {"type": str(config.response_format)}
        if config.response_format is ResponseFormat.json_schema:
            form["json_schema"] = {"name": "verdict", "strict": True, "schema": schema}
        temperature = {} if config.temperature is None else {"temperature": config.temperature}
        return {
            "model": config.model,
            "messages": list(messages),
            "max_completion_tokens": config.max_tokens,
            "response_format": form,
            **temperature,
        }

    def largest_cost(self, body: Mapping[str, Any]) -> float:
        """Return a bound on the cost of a request: a token of a text has at least one byte."""
        messages = [str(message["content"]) for message in body["messages"]]
        num_bytes = sum(len(text.encode(errors="replace")) for text in [*messages, json.dumps(body["response_format"])])
        return self.price(num_bytes + TEMPLATE_TOKENS * len(messages), self.config.max_tokens)
