"""Lookup of the metrics that a suite names, by short name, module or file."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

from rlhf.evaluation.metrics.base import Metric
from rlhf.lookup import find_named
from rlhf.types import InputError

_PLACE = "rlhf.evaluation.metrics"
METRICS: Mapping[str, str] = {
    "exact_match": f"{_PLACE}.exact:ExactMatch",
    "token_f1": f"{_PLACE}.exact:TokenF1",
    "accuracy": f"{_PLACE}.classification:Accuracy",
    "macro_f1": f"{_PLACE}.classification:MacroF1",
    "acc": f"{_PLACE}.choice:ChoiceAccuracy",
    "acc_norm": f"{_PLACE}.choice:ChoiceAccuracyPerCharacter",
    "mc1": f"{_PLACE}.choice:TruthfulMC1",
    "mc2": f"{_PLACE}.choice:TruthfulMC2",
    "letter": f"{_PLACE}.choice:LetterAccuracy",
    "math": f"{_PLACE}.maths:MathAccuracy",
    "bleu": f"{_PLACE}.overlap:Bleu",
    "chrf": f"{_PLACE}.overlap:ChrF",
    "rouge_1": f"{_PLACE}.overlap:Rouge1",
    "rouge_2": f"{_PLACE}.overlap:Rouge2",
    "rouge_l": f"{_PLACE}.overlap:RougeL",
    "instructions": f"{_PLACE}.instructions:InstructionAccuracy",
    "instructions_per_prompt": f"{_PLACE}.instructions:PromptInstructionAccuracy",
    "calls": f"{_PLACE}.calls:CallAccuracy",
    "refusal": f"{_PLACE}.behaviour:Refusal",
    "over_refusal": f"{_PLACE}.behaviour:OverRefusal",
    "under_refusal": f"{_PLACE}.behaviour:UnderRefusal",
    "canary": f"{_PLACE}.behaviour:CanaryLeak",
    "stereotype": f"{_PLACE}.behaviour:StereotypeShare",
    "groundedness": f"{_PLACE}.behaviour:Groundedness",
    "consistency": f"{_PLACE}.behaviour:Consistency",
    "bert_score": f"{_PLACE}.bert_score:BertScore",
    "perplexity": f"{_PLACE}.shape:Perplexity",
    "bits_per_byte": f"{_PLACE}.shape:BitsPerByte",
    "length": f"{_PLACE}.shape:Length",
    "truncation": f"{_PLACE}.shape:Truncation",
    "repetition": f"{_PLACE}.shape:Repetition",
}
"""Classes of metrics by the names that suites use; a module is imported only if a suite names one of its classes."""


def find_metric(name: str, options: Mapping[str, Any], key: str) -> Metric:
    """Return the metric of a short name, `package.module:Class` or `/path/file.py:Class`, with its options.

    `key` is the suite's key for sentences. Raises InputError for an unknown name or option, or a value of another type.
    """
    shown, found = find_named(key, name, METRICS, f"{key} has '{name}', which is no metric: use one of")
    if not (inspect.isclass(found) and issubclass(found, Metric)) or inspect.isabstract(found):
        raise InputError(f"{key} has '{name}', which is no metric: name a subclass of {_PLACE}.base:Metric")
    if not isinstance(options, Mapping):
        raise InputError(
            f"{key} gives {shown} the options {options!r}: give keys with values, such as {{language: zh}}"
        )
    known = {field.name: field for field in fields(found)}
    for option in options:
        if option not in known:
            remedy = f"use {', '.join(known)}" if known else "remove it, since this metric has no options"
            raise InputError(f"{key} gives {shown} the option '{option}', which it does not have: {remedy}")
    for option, field in known.items():
        if option not in options and _is_required(field):
            raise InputError(f"{key} gives {shown} no {option}, which it needs: add the option {option}")
    hints = get_type_hints(found)
    return found(**{
        option: _converted(value, hints[option], f"{key} gives {shown} {option}={value!r}")
        for option, value in options.items()
    })  # fmt: skip


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _converted(value: Any, hint: Any, sentence: str) -> Any:
    """Return a YAML value as a field's type. Raises InputError, opened by the sentence, if it is of another one."""
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        return _converted(value, next(each for each in get_args(hint) if each is not type(None)), sentence)
    if get_origin(hint) is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise InputError(f"{sentence}: give a list")
        return tuple(_converted(each, get_args(hint)[0], sentence) for each in value)
    if inspect.isclass(hint) and issubclass(hint, Enum):
        if value not in [each.value for each in hint]:
            raise InputError(f"{sentence}: give {' or '.join(str(each.value) for each in hint)}")
        return hint(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_other = isinstance(value, bool) and hint is not bool
    if inspect.isclass(hint) and (is_other or not isinstance(value, hint)):
        raise InputError(f"{sentence}: give a value of type {hint.__name__}")
    return value
