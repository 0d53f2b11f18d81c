"""A suite: data in a published layout, written as prompts, with the metrics of the answers."""

from __future__ import annotations

import hashlib
import heapq
import json
import random
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from omegaconf import MISSING

from rlhf.data.arrow import DEFAULT_SPLIT
from rlhf.data.files import errors_at
from rlhf.evaluation.forms import Area, Form
from rlhf.evaluation.items import Item, Question
from rlhf.evaluation.layouts.base import LETTERS
from rlhf.evaluation.layouts.lookup import find_layout
from rlhf.evaluation.sources import below, read_source
from rlhf.types import InputError, Message

CODE = "code"
"""Layout of suites whose answers are programs."""


@dataclass(kw_only=True, slots=True)
class SuiteConfig:
    """A suite of `launch/evaluate.py`: one file of `conf/suite/`, or `'+suite={NAME: {path: FILE}}'`."""

    path: str = MISSING
    """The data: a file (.jsonl, .parquet, .json, .csv, .tsv, .txt), a folder of such files, or one that datasets loads,
    relative to `suite_root`, if that is set; or fresh items: `procedural:TASK` or `reasoning_gym:TASK`."""
    files: str | None = None
    """Pattern of the files of a folder, such as `*_val.csv`. None: the folder is one that datasets loads."""
    joined: str | None = None
    """Data whose fields are added to the rows of the same `id`, such as right answers that are published in a file of
    their own. Relative to `suite_root`. None: the rows are complete."""
    source_options: dict[str, Any] = field(default_factory=dict)
    """Options of fresh items: `size`, `seed`, `level`, `language`, or those of the task of reasoning-gym."""
    columns: list[str] = field(default_factory=list)
    """Names of the columns of CSV files without a header."""
    split: str = DEFAULT_SPLIT
    """Split of a folder that datasets loads."""
    subset: str | None = None
    """Configuration of such a folder with several; None: the only one."""
    layout: str = "rows"
    """Layout of the rows: a name of docs/evaluation.md, or a function of your own that takes the place of a row and the
    row, and yields `Question`s: `package.module:function` or `/path/file.py:function`."""
    layout_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the layout."""
    form: Form = Form.generate
    """`generate`: the model writes its answer. `likelihood`: the likelihoods of the choices are compared."""
    template: str = "{question}"
    """The prompt. `{question}`, `{context}`, `{choices}` and other fields of the layout are filled in."""
    system: str | None = None
    """System message, with fields as in `template`. None: none."""
    chat: bool = True
    """Write prompts in the model's chat template. False: as plain text, for base models."""
    continuation: str = "{choice}"
    """Text whose likelihood is measured after the prompt with `form=likelihood`: `{choice}` or `{letter}`."""
    shots: int = 0
    """Number of worked examples before each question."""
    shots_path: str | None = None
    """Data of the worked examples, in the same layout: the first `shots` are used. Relative to `suite_root`."""
    shots_by: str | None = None
    """Field of which a question and its worked examples have the same value, such as `subject`. None: all questions
    have the same examples."""
    shot_answer: str = "{answer}"
    """Answer of a worked example, with fields as in `template`."""
    samples: int = 1
    """Answers per item."""
    temperature: float = 0.0
    """Sampling temperature; 0 takes the likeliest token."""
    max_tokens: int = 256
    """Longest answer, in tokens."""
    stop: list[str] = field(default_factory=list)
    """Texts at which an answer is cut, such as a line feed for base models."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics by name, with their options: `{exact_match: {}, f1: {language: zh}}`. Names are in docs/evaluation.md; a
    class of your own is `/path/file.py:Class`."""
    area: Area | None = None
    """Area of the report in which the suite counts: `understanding`, `generation`, `reasoning`, `knowledge`, `helpful`,
    `harmless`, `honest` or `safety`. None: none, it counts in the whole alone."""
    slices: list[str] = field(default_factory=list)
    """Fields of the rows by whose values every metric is reported too, such as `subject`."""
    limit: int | None = None
    """Number of items. None: all."""
    limit_seed: int | None = None
    """Seed by which `limit` items are drawn from all, as for data in order of their classes. None: the first ones."""

    def __post_init__(self) -> None:
        for name in ("samples", "max_tokens", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"suite: {name}={value}: give at least 1")
        if self.shots < 0 or (self.shots > 0) != (self.shots_path is not None):
            raise InputError(
                f"suite: shots={self.shots}, shots_path={self.shots_path}: set both for worked examples, or neither"
            )
        if self.shots_by is not None and self.shots == 0:
            raise InputError(f"suite: shots_by={self.shots_by}, shots=0: set shots, or leave shots_by out")
        if self.limit_seed is not None and self.limit is None:
            raise InputError(f"suite: limit_seed={self.limit_seed}, limit=null: set limit, or leave limit_seed out")
        if self.temperature < 0 or (self.samples > 1 and self.temperature == 0):
            raise InputError(
                f"suite: samples={self.samples}, temperature={self.temperature}: several answers to one item need a "
                "temperature above 0, one may have 0"
            )
        try:
            self.continuation.format(choice="", letter="")
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"suite: continuation={self.continuation!r} names another field than choice and letter, or has a "
                f"single brace ({error}): write {{choice}} or {{letter}}"
            ) from None
        if self.form is Form.likelihood and self.samples > 1:
            raise InputError(f"suite: form=likelihood, samples={self.samples}: a likelihood has no samples; give 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The items of a suite, ready to be asked."""

    name: str
    config: SuiteConfig
    items: tuple[Item, ...]
    digest: str
    """Hash of what is asked: items, form and sampling; two evaluations with the same digest can be compared."""


def load_suite(name: str, config: SuiteConfig, root: str | None) -> Suite:
    """Read a suite's data and write its prompts. Raises InputError with the suite, file and line."""
    with errors_at(f"suite.{name}"):
        if config.layout == CODE:
            raise InputError(
                f"layout={CODE}: code suites need the sandbox, which this version does not have; leave the suite out"
            )
        shots = _shots(name, config, root)
        questions = draw(_questions(name, config, config.path, root), config.limit, config.limit_seed)
        items = tuple(_render(config, question, _shots_of(config, question, shots)) for question in questions)
    if not items:
        raise InputError(f"suite.{name}.path={config.path}: it has no question with a right answer: correct the file")
    _check_ids(name, items)
    return Suite(name=name, config=config, items=items, digest=_digest(config, items))


def draw(questions: Iterable[Question], limit: int | None, seed: int | None) -> Iterator[Question]:
    """Return the first `limit` questions, or with a seed as many of all, in their order. None: all."""
    if seed is None:
        return islice(questions, limit)
    numbers = random.Random(seed)
    drawn = heapq.nsmallest(limit or 0, ((numbers.random(), i, each) for i, each in enumerate(questions)))
    return iter([question for _, _, question in sorted(drawn, key=lambda each: each[1])])


def _questions(name: str, config: SuiteConfig, path: str, root: str | None) -> Iterator[Question]:
    layout = find_layout(config.layout, config.layout_options, f"suite.{name}")
    rows = read_source(
        below(path, root),
        config.source_options,
        joined=None if config.joined is None or path != config.path else below(config.joined, root),
        files=config.files,
        columns=config.columns,
        split=config.split,
        subset=config.subset,
    )
    for where, row in rows:
        with errors_at(where):
            for question in layout(where, row):
                yield replace(question, where=where)


def _shots(name: str, config: SuiteConfig, root: str | None) -> dict[str, list[Message]]:
    """Return the turns of the worked examples, by the value of `shots_by`; all under the empty text without it."""
    turns: dict[str, list[Message]] = {}
    if config.shots_path is None:
        return turns
    for question in _questions(name, config, config.shots_path, root):
        if len(own := turns.setdefault(_group(config, question), [])) == 2 * config.shots:
            if config.shots_by is None:
                break
            continue
        if "answer" not in question.fields and not question.references:
            raise InputError(
                f"shots_path={config.shots_path}: {question.where} has no answer: a worked example needs one"
            )
        fields = {"answer": question.references[0] if question.references else "", **question.fields}
        own.append({"role": "user", "content": fill(config.template, question)})
        own.append({"role": "assistant", "content": fill(config.shot_answer, replace(question, fields=fields))})
    return turns


def _group(config: SuiteConfig, question: Question) -> str:
    """Return the value by which a question and its worked examples belong together."""
    if config.shots_by is None:
        return ""
    if question.meta.get(config.shots_by) is None:
        raise InputError(
            f"{question.where}: shots_by={config.shots_by} names a field that the question lacks: it has "
            f"{', '.join(question.meta) or 'none'}"
        )
    return str(question.meta[config.shots_by])


def _shots_of(config: SuiteConfig, question: Question, shots: Mapping[str, list[Message]]) -> list[Message]:
    if config.shots_path is None:
        return []
    own = shots.get(_group(config, question), [])
    if len(own) < 2 * config.shots:
        of_group = f" of {config.shots_by}={_group(config, question)}" if config.shots_by else ""
        raise InputError(
            f"shots={config.shots}: {config.shots_path} has {len(own) // 2} questions{of_group}: give fewer, or more "
            "rows"
        )
    return own


def _render(config: SuiteConfig, question: Question, shots: Sequence[Message]) -> Item:
    messages: tuple[Message, ...] = ()
    if question.messages or question.fields:
        asked = question.messages or ({"role": "user", "content": fill(config.template, question)},)
        system = () if config.system is None else ({"role": "system", "content": fill(config.system, question)},)
        messages = (*system, *shots, *asked)
    if config.form is Form.likelihood and not question.choices:
        raise InputError(
            f"{question.where}: form=likelihood, but the layout {config.layout} gives no choices: set form=generate"
        )
    return Item(
        id=question.id,
        messages=messages,
        references=question.references,
        choices=question.choices,
        right=question.right,
        cluster=question.cluster,
        meta=question.meta,
        where=question.where,
    )


def fill(template: str, question: Question) -> str:
    """Return the template with the question's fields. Raises InputError for a field that it lacks."""
    try:
        return string.Formatter().vformat(template, (), question.fields)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise InputError(
            f"{question.where}: template={template!r} names a field that the row lacks, or has a single brace "
            f"({error}); the fields are {', '.join(question.fields) or 'none'}; write a brace as {{{{ or }}}}"
        ) from None


def continuations(config: SuiteConfig, item: Item) -> tuple[str, ...]:
    """Return the texts whose likelihood is measured, one per choice."""
    if not item.messages:
        return item.choices
    return tuple(
        config.continuation.format(choice=choice, letter=LETTERS[i] if i < len(LETTERS) else "")
        for i, choice in enumerate(item.choices)
    )


def _check_ids(name: str, items: Sequence[Item]) -> None:
    first: dict[str, Item] = {}
    for item in items:
        if (other := first.setdefault(item.id, item)) is not item:
            raise InputError(
                f"suite.{name}: the id {item.id!r} of {item.where} is that of {other.where} too: give each row its "
                "own id"
            )


def _digest(config: SuiteConfig, items: Sequence[Item]) -> str:
    asked: Mapping[str, Any] = {
        "form": config.form,
        "chat": config.chat,
        "samples": config.samples,
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "stop": config.stop,
        "items": [
            [item.id, item.messages, item.references, continuations(config, item), item.right, item.cluster, item.meta]
            for item in items
        ],
    }
    text = json.dumps(asked, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
