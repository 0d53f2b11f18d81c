"""Function calls, against verdicts of BFCL's published checker."""

import json

import pytest

from rlhf.evaluation.metrics.call_text import Call, read_calls
from rlhf.evaluation.metrics.calls import CallAccuracy
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, item, texts

AREA = {
    "name": "geometry.area",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "unit": {"type": "string"},
            "points": {"type": "array", "items": {"type": "string"}},
            "options": {"type": "dict"},
            "rows": {"type": "array", "items": {"type": "dict"}},
            "pair": {"type": "tuple", "items": {"type": "float"}},
        },
        "required": ["base"],
    },
}
WEATHER = {
    "name": "weather",
    "parameters": {"type": "dict", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TRUTH = {
    "geometry.area": {
        "base": [10],
        "height": [5.0],
        "unit": ["square cm", ""],
        "points": [["New York", "Rome"], ""],
        "options": [{"mode": ["Fast", "slow"], "depth": [2, ""]}, ""],
        "rows": [[{"a": [1]}, {"a": [2]}], ""],
        "pair": [[1.0, 2.0], ""],
    }
}


def item_of(*truth, functions=(AREA, WEATHER)):
    return item(meta={"functions": list(functions), "ground_truth": list(truth)})


# Verdicts of ast_checker at berkeley-function-call-leaderboard b640d30, in the category `multiple`.
VERDICTS = [
    ("geometry_area(base=10, height=5)", True),
    ("[geometry_area(height=5.0, base=10, unit='Square-CM')]", True),
    ("geometry_area(base=10.0, height=5)", False),
    ("geometry_area(base='10', height=5)", False),
    ("geometry_area(base=10)", False),
    ("geometry_area(height=5.0)", False),
    ("geometry_area(base=10, height=5, width=1)", False),
    ("area(base=10, height=5)", False),
    ("geometry_area(base=10, height=5, points=['new york', 'ROME'])", True),
    ("geometry_area(base=10, height=5, points=['Rome', 'New York'])", False),
    ("geometry_area(base=10, height=5, points=[1, 2])", False),
    ("geometry_area(base=10, height=5, options={'mode': 'fast'})", True),
    ("geometry_area(base=10, height=5, options={'mode': 'SLOW', 'depth': 2})", True),
    ("geometry_area(base=10, height=5, options={'depth': 2})", False),
    ("geometry_area(base=10, height=5, options={'mode': 'fast', 'x': 1})", False),
    ("geometry_area(base=10, height=5, rows=[{'a': 1}, {'a': 2}])", True),
    ("geometry_area(base=10, height=5, rows=[{'a': 1}])", False),
    ("geometry_area(base=10, height=5, pair=(1.0, 2.0))", True),
    ("geometry_area(base=10, height=5, pair=(1, 2))", True),
    ("geometry_area(base=2*5, height=10/2)", True),
    ("geometry_area(base=10, height=5), weather(city='Rome')", False),
]


@pytest.mark.parametrize(("text", "verdict"), VERDICTS)
def test_verdicts_equal_the_published_checker(text, verdict):
    assert figure(CallAccuracy(), [item_of(TRUTH)], texts(text)) == verdict


def test_calls_in_parallel_have_no_order():
    items = [item_of({"weather": {"city": ["Rome"]}}, {"weather": {"city": ["北京", "Beijing"]}})] * 3
    answers = texts(
        "[weather(city='北京'), weather(city='rome')]",
        "[weather(city='Rome'), weather(city='Rome')]",
        "[weather(city='Rome')]",
    )
    assert CallAccuracy().values(items, answers).tolist() == [1, 0, 0]


def test_no_call_is_right_for_an_irrelevant_function():
    items = [item_of()] * 3
    assert CallAccuracy().values(items, texts("I cannot do that.", "", "weather(city='Rome')")).tolist() == [1, 1, 0]


CALL = [Call(name="f", arguments={"x": 1, "y": "好"})]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("f(x=1, y='好')", CALL),
        ("```python\n[f(x=1, y='好')]\n```", CALL),
        ('{"name": "f", "arguments": {"x": 1, "y": "好"}}', CALL),
        ('[{"name": "f", "parameters": {"x": 1, "y": "好"}}]', CALL),
        ('Sure.\n<tool_call>\n{"name": "f", "arguments": {"x": 1, "y": "好"}}\n</tool_call>', CALL),
        ('[{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1, \\"y\\": \\"好\\"}"}}]', CALL),
        ('[{"f": {"x": 1, "y": "好"}}]', CALL),
        ("a.b(x=y, z=[1, (2,)], w=g(1), v=-x, u=h(k=1))",
         [Call(name="a.b", arguments={"x": "y", "z": [1, (2,)], "w": "g(1)", "v": "-x", "u": {"h": {"k": 1}}})]),
        ("[]", []),
        ("f(1)", None),
        ("f(**x)", None),
        ("f(x=1", None),
        ("f(x=1/0)", None),
        ("x", None),
        ("", []),
        ("<tool_call>{</tool_call>", None),
        ("12", None),
        ("f(" * 500 + ")" * 500, None),
        ("(" * 5000, None),
        ("[" * 5000, None),
    ],
)  # fmt: skip
def test_calls_of_a_text(text, calls):
    assert read_calls(text) == calls


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({"functions": [WEATHER]}, "has no ground_truth, which accuracy of calls needs"),
        ({"ground_truth": []}, "has no functions"),
        ({"functions": [WEATHER], "ground_truth": [{"area": {}}]}, "do not fit together"),
        ({"functions": [WEATHER], "ground_truth": [[]]}, "do not fit together"),
        (
            {
                "functions": json.loads(json.dumps(WEATHER).replace("string", "Text")),
                "ground_truth": [{"weather": {"city": ["x"]}}],
            },
            "parameter of type Text: use string",
        ),
    ],
)
def test_mistakes_of_an_item_are_named(meta, sentence):
    with pytest.raises(InputError, match=f"suite.jsonl:1: .*{sentence}"):
        CallAccuracy().values([item(meta=meta)], texts("f()"))
