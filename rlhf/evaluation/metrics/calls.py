"""Function calls: the AST match of the Berkeley Function-Calling Leaderboard (Patil et al. 2024) for Python schemas.

An item's meta has `functions`, their schemas, and `ground_truth`, one `{name: {parameter: [accepted
values]}}` per call, in the form of the published files; an accepted value "" marks a parameter that may be left out. An
empty `ground_truth` expects no call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric
from rlhf.evaluation.metrics.call_text import Call, read_calls
from rlhf.evaluation.metrics.requirements import final_text, meta
from rlhf.types import InputError

_TYPES: Mapping[str, type] = {
    "string": str, "any": str, "integer": int, "float": float, "number": float, "boolean": bool, "array": list,
    "tuple": list, "list": list, "dict": dict, "object": dict,
}  # fmt: skip
_NESTED = ("array", "tuple", "list")
_LENIENT = re.compile(r"[ ,./\-_*^]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAccuracy(MeanMetric):
    """Share of answers whose calls match the expected ones, in any order.

    Names are equal, except that `_` may stand for `.`, which tool calls of JSON do not allow. Values match one that is
    accepted, with the types of the schema: an integer may stand for a float, strings ignore case, spaces and
    `,./-_*^`.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return np.array([_is_right(*pair) for pair in zip(items, answers, strict=True)], dtype=np.float64)


def _is_right(item: Item, answer: Answer) -> bool:
    expected = _expected(item)
    calls = read_calls(final_text(answer))
    if not expected:
        return not calls
    if calls is None or len(calls) != len(expected):
        return False
    # The first call that matches an expected one is taken, as published.
    remaining = list(calls)
    for name, accepted, schema in expected:
        index = next((i for i, call in enumerate(remaining) if matches(call, name, accepted, schema)), None)
        if index is None:
            return False
        del remaining[index]
    return True


def _expected(item: Item) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Return name, accepted values and schema of each expected call. Raises InputError."""
    truth = meta(item, "ground_truth", "accuracy of calls", '[{"f": {"x": [1]}}]')
    functions = meta(item, "functions", "accuracy of calls", '[{"name": "f", "parameters": {"properties": {}}}]')
    functions = [functions] if isinstance(functions, Mapping) else functions
    try:
        schemas = {str(each["name"]): each["parameters"] for each in functions}
        calls = [next(iter(call.items())) for call in truth]
        for name, accepted in calls:
            # A few published items accept parameters that the schema lacks; a call cannot give those.
            known = [schema for key, schema in schemas[name]["properties"].items() if key in accepted]
            unknown = next((schema["type"] for schema in known if schema["type"] not in _TYPES), None)
            if unknown is not None:
                raise InputError(
                    f"{item.where}: function '{name}' has a parameter of type {unknown}: use {', '.join(_TYPES)}"
                )
        return [(name, accepted, schemas[name]) for name, accepted in calls]
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{item.where}: functions and ground_truth of item '{item.id}' do not fit together ({error!r}): give each "
            'expected call as {"name": {"parameter": [values]}} with the schema of that name'
        ) from error


def matches(call: Call, name: str, accepted: Mapping[str, Sequence[Any]], schema: Mapping[str, Any]) -> bool:
    """Return whether a call has the expected name, and arguments among the accepted values.

    `schema` is the function's `parameters` with `properties` and `required`.
    """
    if call.name != name and call.name != name.replace(".", "_"):
        return False
    if any(parameter not in call.arguments for parameter in schema.get("required", ())):
        return False
    if any(parameter not in call.arguments and "" not in values for parameter, values in accepted.items()):
        return False
    properties = schema["properties"]
    return all(
        parameter in accepted
        and parameter in properties
        and _accepts(value, accepted[parameter], properties[parameter])
        for parameter, value in call.arguments.items()
    )


def _accepts(value: Any, accepted: Sequence[Any], schema: Mapping[str, Any]) -> bool:
    kind = schema["type"]
    expected = _TYPES[kind]
    nested = _TYPES.get(schema.get("items", {}).get("type")) if kind in _NESTED else None
    if kind == "tuple" and isinstance(value, tuple):
        value = list(value)
    if expected is float and type(value) is int:
        value = float(value)
    # A value of another type than the schema's is a variable's name, if the accepted values are names too.
    example = next((type(each) for each in accepted if each != ""), expected)
    if type(value) is not expected:
        return type(value) is example and value in accepted
    if nested is not None and isinstance(value, list) and not _has_nested(value, accepted, nested):
        return False
    if example is expected:
        if expected is dict:
            return any(_same_dict(value, each) for each in accepted if isinstance(each, Mapping))
        if isinstance(value, list) and nested is dict:
            return any(_same_dicts(value, each) for each in accepted if isinstance(each, list))
        if expected in (str, list):
            return _plain(value) in [_plain(each) for each in accepted if isinstance(each, expected)]
    return value in accepted


def _has_nested(value: list[Any], accepted: Sequence[Any], nested: type) -> bool:
    """Return whether the elements are of the schema's type, or of that of an accepted list's elements."""
    for each in accepted:
        if not isinstance(each, list):
            return True
        example = next((type(element) for element in each if element != ""), nested)
        if all(type(element) in (nested, example) for element in value):
            return True
    return False


def _same_dict(value: Any, accepted: Mapping[str, Any]) -> bool:
    if not isinstance(value, Mapping) or any(key not in accepted for key in value):
        return False
    if any(key not in value and "" not in values for key, values in accepted.items()):
        return False
    return all(_text(each) in [_text(option) for option in accepted[key]] for key, each in value.items())


def _same_dicts(value: list[Any], accepted: list[Any]) -> bool:
    return len(value) == len(accepted) and all(_same_dict(*pair) for pair in zip(value, accepted, strict=True))


def _plain(value: Any) -> Any:
    """Return strings, or the strings of a list, without the differences that do not count."""
    return [_text(each) for each in value] if isinstance(value, list) else _text(value)


def _text(value: Any) -> Any:
    return _LENIENT.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
