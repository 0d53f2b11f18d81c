"""Completion requests: one prompt or several, as text or token ids."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from rlhf.protocols.openai.generation import GenerationRequest
from rlhf.protocols.openai.schema import LOGPROBS, TokenId

Text = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
ListsOfTokenIds = Annotated[list[TokenIds], Field(min_length=1)]


class CompletionRequest(GenerationRequest):
    prompt: Text | Texts | TokenIds | ListsOfTokenIds
    max_tokens: int | None = Field(None, ge=0)
    """0 with `echo` scores the prompt alone."""
    logprobs: int | None = Field(None, ge=0, le=LOGPROBS)
    echo: bool = Field(False, validate_default=True)

    @field_validator("prompt", mode="wrap")
    @classmethod
    def is_prompt(cls, prompt: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(prompt)
        except ValidationError:
            form = "a text, a list of texts, a list of token ids, or a list of such lists, none of them empty"
            raise ValueError(f"a prompt is {form}") from None

    @field_validator("echo")
    @classmethod
    def returns_text(cls, echo: bool, info: ValidationInfo) -> bool:
        if info.data.get("max_tokens") == 0 and not echo:
            raise ValueError("max_tokens=0 scores the prompt alone; set it, or ask for at least 1 token")
        return echo

    @cached_property
    def prompts(self) -> list[Any]:
        """Texts, or lists of token ids."""
        is_single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if is_single else [*self.prompt]

    @cached_property
    def dialogue(self) -> list[dict[str, Any]] | None:
        if not isinstance(self.prompts[0], str):
            return None
        return [{"role": "user", "content": prompt} for prompt in self.prompts]

    @property
    def prompt_content(self) -> Any:
        return self.dialogue if self.dialogue and len(self.prompts) == 1 else self.prompts

    @property
    def opening(self) -> Any:
        return self.prompt_content

    @property
    def turn(self) -> int:
        return 1
