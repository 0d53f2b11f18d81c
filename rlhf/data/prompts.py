"""The prompts of a file, and the configuration of a run's prompts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.data.arrow import without_padding
from rlhf.data.chat import render, require_template, tokenize_texts
from rlhf.data.dialogues import TEMPLATED, Dialogue, dialogue_of
from rlhf.data.fields import has, require_positive, take
from rlhf.data.files import errors_at, kind_of
from rlhf.data.left_out import refuse_losses, refuse_unknown
from rlhf.data.messages import take_prompt
from rlhf.data.source import SourceConfig
from rlhf.types import InputError, Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


NO_PATH = ""
"""Value of `data.path` where `data.sets` has the paths."""


@dataclass(kw_only=True, slots=True)
class PromptRowsConfig(SourceConfig):
    """Prompts in a file."""

    prompt_key: str = "prompt"
    """The field that holds the prompt: text (one user message) or a list of {role, content} messages. Dots go into
    nested fields, here and in `answer_key`: `reward_model.ground_truth`."""
    answer_key: str | None = "answer"
    """The field that holds the reference answer, given to rewards as `answer`. None: the rewards need none."""
    answer_pattern: str | None = None
    r"""A regex searched in the answer; its first group becomes the answer (GSM8K: `####\s*(.+)`). None: all of it."""
    system_key: str | None = "system"
    """The field that holds a system message, put before the prompt where a row has one. None: it is left out."""
    tools_key: str | None = "tools"
    """The field that holds the schemas of the functions the policy may call, where a row has any; the chat template
    gets them. None: they are left out."""
    system: str | None = None
    """A system message put before every prompt. None: the prompts as they are."""
    template: str | None = None
    """Text put around the last message of every prompt, which replaces `{prompt}` in it. None: the message as it is."""
    max_prompt_tokens: int | None = None
    """Tokens a prompt may have, chat template included; a longer one is an error. None: what the context leaves."""

    def __post_init__(self) -> None:
        super(PromptRowsConfig, self).__post_init__()
        require_positive(max_prompt_tokens=self.max_prompt_tokens)
        if self.template is not None and "{prompt}" not in self.template:
            raise InputError(f"template='{self.template}' has no place for the prompt: write {{prompt}} in it")
        if self.answer_pattern is not None:
            self._check_pattern(self.answer_pattern)

    def _check_pattern(self, pattern: str) -> None:
        if self.answer_key is None:
            raise InputError(f"answer_pattern='{pattern}' has no answer to search: set answer_key, or unset it")
        try:
            num_groups = re.compile(pattern).groups
        except re.error as error:
            raise InputError(f"answer_pattern='{pattern}' is not a regex ({error}): correct it") from None
        if num_groups == 0:
            raise InputError(f"answer_pattern='{pattern}' has no group: put ( ) around the part that is the answer")


@dataclass(kw_only=True, slots=True)
class PromptSetConfig(PromptRowsConfig):
    """One of several prompt sets of a run."""

    weight: float = 1.0
    """Share of the set's prompts among all that are drawn, relative to the other sets' weights. 0: its prompts are only
    measured, if some are held out."""
    reward: dict[str, float] = field(default_factory=dict)
    """Weights of the rewards that score the set's rollouts, by name: functions among `reward.functions`
    (`{my.py\\:function: 1}` on a command line, where a colon is escaped), `reward_model` and `judge`.
    Empty: those of `reward`."""
    max_tokens: int | None = None
    """Longest completion of the set's prompts, in tokens. None: `sampling.max_tokens`, which it may not exceed."""

    def __post_init__(self) -> None:
        super(PromptSetConfig, self).__post_init__()
        require_positive(max_tokens=self.max_tokens)


@dataclass(kw_only=True, slots=True)
class PromptDataConfig(PromptRowsConfig):
    """Prompts in a file, or in several."""

    sets: dict[str, PromptSetConfig] = field(default_factory=dict)
    """Several prompt sets by name, in place of `path` and the other keys here, which each set has for itself, beside
    `weight`, `reward` and `max_tokens`: `+data.sets={math: {path: FILE, weight: 3}, code: {path: FILE}}`."""

    def __post_init__(self) -> None:
        super(PromptDataConfig, self).__post_init__()
        if self.sets:
            check_sets(self)

    @property
    def origin(self) -> str:
        """Files or sets that the prompts come from, in words."""
        return f"data.sets ({', '.join(self.sets)})" if self.sets else self.path

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each set that is trained on; one without a name is all there is without `sets`."""
        return {name: each.weight for name, each in self.sets.items() if each.weight} if self.sets else {"": 1.0}


SET_NAME = re.compile(r"[A-Za-z0-9_-]+")
TAKEN = frozenset({"reward", "train", "seconds", "busy", "memory_bytes", "failures", "validation", "greedy",
                   "judge"})  # fmt: skip
"""First parts of metric names, which a set's name would be too."""


def check_sets(config: PromptDataConfig) -> None:
    """Raise InputError unless the sets have usable names and weights, and nothing beside them would be ignored."""
    for declared in fields(PromptRowsConfig):
        value = getattr(config, declared.name)
        if value != declared.default and not (declared.name == "path" and value == NO_PATH):
            raise InputError(
                f"data.{declared.name}={value}: with data.sets each set has its own; set data.sets.NAME."
                f"{declared.name}, and leave this one out"
            )
    for name, each in config.sets.items():
        if not SET_NAME.fullmatch(name) or name in TAKEN:
            raise InputError(
                f"data.sets.{name}: name a set with letters, digits, _ and -, and not like a metric "
                f"({', '.join(sorted(TAKEN))})"
            )
        if not 0 <= each.weight < math.inf:
            raise InputError(f"data.sets.{name}.weight={each.weight}: give 0 or more")
        if each.reward and not any(each.reward.values()):
            raise InputError(
                f"data.sets.{name}.reward={each.reward}: no reward scores the set; give one a weight other than 0, as "
                "in {exact: 1.0}, or leave it empty for those of reward.functions"
            )
    if not any(each.weight for each in config.sets.values()):
        raise InputError(f"data.sets: the weights of {', '.join(config.sets)} sum to 0; give at least one a weight")


class _Draft(NamedTuple):
    where: str
    dialogue: Dialogue
    meta: dict[str, Any]
    text: str


def load_prompts(
    config: PromptRowsConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context_tokens: int,
    max_completion_tokens: int,
    data_set: str = "",
) -> list[Prompt]:
    """Return all prompts of a file in its order; each leaves `max_completion_tokens` of the model's `context_tokens`.
    Ids begin with the file's name, or that of the `data_set`: two sets' files may have the same name."""
    require_template(tokenizer)
    drafts = list(_drafts(config, tokenizer))
    prompts = []
    token_ids = tokenize_texts(tokenizer, [draft.text for draft in drafts])
    for number, (draft, ids) in enumerate(zip(drafts, token_ids, strict=True), start=1):
        with errors_at(draft.where):
            refuse_unknown(tokenizer, ids, draft.dialogue.messages)
            _check_length(len(ids), config.max_prompt_tokens, max_completion_tokens, context_tokens)
        prompts.append(
            Prompt(
                id=f"{data_set or Path(config.path).stem}-{number}",
                messages=draft.dialogue.messages,
                token_ids=ids,
                source=draft.where,
                meta=draft.meta,
                tools=draft.dialogue.tools,
                data_set=data_set,
            )
        )
    return prompts


def _drafts(config: PromptRowsConfig, tokenizer: PreTrainedTokenizerBase) -> Iterator[_Draft]:
    for where, row in islice(config.rows(), config.limit):
        with errors_at(where):
            asked = _dialogue(config, without_padding(row))
            refuse_losses(tokenizer, asked.messages, asked.tools)
            text = render(tokenizer, asked.messages, add_generation_prompt=True, tools=asked.tools)
            yield _Draft(where, asked, _meta(config, row), text)


def _dialogue(config: PromptRowsConfig, row: Mapping[str, Any]) -> Dialogue:
    messages: list[Message] = take_prompt(
        row, config.prompt_key, remedy="set prompt_key to the field that holds the prompt"
    )
    if has(row, TEMPLATED) and row[TEMPLATED] is False:
        raise InputError(
            f"the field '{TEMPLATED}' is false, so its prompt is a text without a chat template, and rollouts need "
            "dialogues: remove the row"
        )
    if config.template is not None:
        last = messages[-1]
        messages[-1] = {**last, "content": config.template.replace("{prompt}", last["content"])}
    asked = dialogue_of(row, messages, system_key=config.system_key, tools_key=config.tools_key)
    if config.system is None:
        return asked
    first = asked.messages[0]
    if first["role"] in ("system", "developer"):
        key, other = config.system_key, ", or system_key to null to ignore the rows' own"
        if first == messages[0]:
            key, other = config.prompt_key, ""
        raise InputError(f"the field '{key}' has a system message of its own: set system to null{other}")
    return replace(asked, messages=[{"role": "system", "content": config.system}, *asked.messages])


def _meta(config: PromptRowsConfig, row: Mapping[str, Any]) -> dict[str, Any]:
    meta = {key: value for key, value in row.items() if key != config.prompt_key}
    if config.answer_key is not None:
        meta["answer"] = _answer(row, config.answer_key, config.answer_pattern)
    return meta


def _answer(row: Mapping[str, Any], key: str, pattern: str | None) -> str:
    remedy = "set answer_key to the field that holds the answer, or to null if no reward needs one"
    value = take(row, key, remedy=remedy)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)  # pandas makes floats of an integer column with a gap
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) not in (str, int, float) or not is_finite:
        found = kind_of(value) if is_finite else value
        raise InputError(
            f"the field '{key}' is {found}, not text or a number: set answer_key to a field that is, or to null, and "
            "let a reward of your own read it from prompt.meta"
        )
    if pattern is None:
        return str(value)
    match = re.search(pattern, str(value))
    if match is None or match[1] is None:
        raise InputError(f"answer_pattern='{pattern}' does not match the field '{key}': correct the pattern or the row")
    return match[1]


def _check_length(num_tokens: int, limit: int | None, max_completion_tokens: int, context_tokens: int) -> None:
    if limit is not None and num_tokens > limit:
        raise InputError(
            f"the prompt has {num_tokens} tokens, more than max_prompt_tokens={limit}: raise it, or remove the row"
        )
    if num_tokens + max_completion_tokens > context_tokens:
        raise InputError(
            f"the prompt's {num_tokens} tokens and a completion of {max_completion_tokens} exceed the context of "
            f"{context_tokens} tokens: lower sampling.max_tokens, raise sampler.context_tokens, or remove the row"
        )
