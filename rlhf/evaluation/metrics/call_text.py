"""Function calls in generated text: as Python, or as JSON tool calls. Nothing is executed."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL | re.IGNORECASE)
_FENCED = re.compile(r"```[a-zA-Z_]*\n?(.*?)```", re.DOTALL)
_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a function by keyword."""

    name: str
    arguments: Mapping[str, Any]


def read_calls(text: str) -> list[Call] | None:
    """Return the calls that a text consists of; None if it is not made of calls alone.

    Python is one call or a list of calls (`[f(a=1), g(b="x")]`). JSON is an object or a list of objects with `name` and
    `arguments` (or `parameters`), alone, in `<tool_call>` tags, or as OpenAI's `function` objects; or the form
    `{"name": {...arguments}}`. A Markdown fence around either is removed.
    """
    tagged = _TAGGED.findall(text)
    if tagged:
        parts = [_from_json(part.strip()) for part in tagged]
        return None if any(part is None for part in parts) else [call for part in parts for call in part or []]
    fenced = _FENCED.search(text)
    body = (fenced[1] if fenced else text).strip("`\n ")
    calls = _from_json(body)
    return _from_python(body) if calls is None else calls


def _from_json(text: str) -> list[Call] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    values = value if isinstance(value, list) else [value]
    calls = [_json_call(each) for each in values]
    return None if None in calls else [call for call in calls if call is not None]


def _json_call(value: Any) -> Call | None:
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("name"), str):
        name, arguments = value["name"], value.get("arguments", value.get("parameters", {}))
    elif len(value) == 1:
        name, arguments = next(iter(value.items()))
    else:
        return None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    return Call(name=name, arguments=arguments) if isinstance(arguments, Mapping) else None


def _from_python(text: str) -> list[Call] | None:
    body = text if text.startswith("[") else f"[{text}]"
    try:
        parsed = ast.parse(body.strip("'"), mode="eval").body
        elements = parsed.elts if isinstance(parsed, ast.List) else [parsed]
        if not all(isinstance(element, ast.Call) for element in elements):
            return None
        return [Call(**_called(element)) for element in elements if isinstance(element, ast.Call)]
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _called(node: ast.Call) -> dict[str, Any]:
    """Return name and arguments. Raises ValueError for arguments by position or `**`: their names are unknown."""
    if node.args or any(argument.arg is None for argument in node.keywords):
        raise ValueError("arguments without names")
    arguments = {str(argument.arg): _value(argument.value) for argument in node.keywords}
    return {"name": ast.unparse(node.func), "arguments": arguments}


def _value(node: ast.expr) -> Any:
    """Return the value of a literal; a name or any other expression as its source, as in the published decoder."""
    if isinstance(node, ast.Constant):
        return "..." if node.value is Ellipsis else node.value
    if isinstance(node, ast.List):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element) for element in node.elts)
    if isinstance(node, ast.Dict):
        return {
            _value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand)
        return -value if _is_number(value) else ast.unparse(node)
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _value(node.left), _value(node.right)
        numbers = _is_number(left) and _is_number(right)
        return _ARITHMETIC[type(node.op)](left, right) if numbers else ast.unparse(node)
    if isinstance(node, ast.Call) and node.keywords:
        called = _called(node)
        return {called["name"]: called["arguments"]}
    return ast.unparse(node)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
