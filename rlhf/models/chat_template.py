"""Custom chat templates, and values for the switches that a template reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.data.chat import render, require_template
from rlhf.models.tokenizer import load_tokenizer
from rlhf.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "What is 12 + 30?"
_REMEDY = "give a jinja file that writes `messages`, such as the chat_template.jinja of a model of the same family"
_NAMES_OF_RENDERING = ("messages", "tools", "documents", "add_generation_prompt")


def load_chat_tokenizer(model: str, template: str | None, switches: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the folder `model`, with the template of the file `template`, if any, in place of its
    own, and with `switches` as defaults of the template's variables.

    Both become part of the tokenizer's template, so that they apply to every rendering, are saved with the model, and
    hold in serving. Raises InputError if the file is no template, or the template does not read a switch.
    """
    tokenizer = load_tokenizer(model)
    if template is not None:
        tokenizer.chat_template = read_template(template)
    if switches:
        require_template(tokenizer)
        own = tokenizer.chat_template
        if isinstance(own, dict):
            tokenizer.chat_template = {name: with_switches(text, switches, model) for name, text in own.items()}
        else:
            tokenizer.chat_template = with_switches(own, switches, model)
    if template is not None:
        check_template(template, tokenizer)
    return tokenizer


def read_template(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"chat_template={file}: it cannot be read ({error.strerror}); {_REMEDY}") from None
    except UnicodeDecodeError:
        raise InputError(f"chat_template={file}: it is not UTF-8 text; {_REMEDY}") from None


def check_template(file: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError if the tokenizer's template, which comes from `file`, does not render the user's message."""
    try:
        asked: list[Message] = [{"role": "user", "content": _PROBE}]
        rendered = render(tokenizer, asked, add_generation_prompt=True) if tokenizer.chat_template else ""
    except InputError as error:
        raise InputError(f"chat_template={file}: it is no chat template ({error.__cause__}); {_REMEDY}") from None
    if _PROBE not in rendered:
        raise InputError(f"chat_template={file}: it omits the user's message, so it is no chat template; {_REMEDY}")


def with_switches(template: str, switches: Mapping[str, Any], model: str) -> str:
    """Return the template with a default for each switch, used if the caller of a rendering does not set it."""
    for name in switches:
        if name in _NAMES_OF_RENDERING or not name.isidentifier():
            raise InputError(f"chat_template_kwargs.{name}: it is no switch of a template; remove it")
        if not re.search(rf"(?<!\w){name}(?!\w)", template):
            raise InputError(
                f"chat_template_kwargs.{name}: the chat template of {model} does not read it; correct the name, as in "
                "enable_thinking for Qwen3, or remove it"
            )
    # Ends with an empty expression, not a bare block: jinja would trim a newline after a block.
    defaults = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}{{{{ '' }}}}"
        for name, value in switches.items()
    )
    return template if template.startswith(defaults) else defaults + template
