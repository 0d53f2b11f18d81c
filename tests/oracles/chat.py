"""One prompt as tokens, the plain way."""

from typing import Any

from rlhf.data.chat import render


def tokenize_prompt(tokenizer: Any, messages: list[Any]) -> tuple[int, ...]:
    """Token ids of the dialogue and the opening of the assistant's turn."""
    text = render(tokenizer, messages, add_generation_prompt=True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
