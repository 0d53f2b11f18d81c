"""Whatever a row holds, a loader gives units or one sentence that begins with the row's place."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.kto import KTODataConfig
from rlhf.data.preferences import PairFormat, PreferenceDataConfig, RankingDataConfig
from rlhf.data.steps import StepDataConfig
from rlhf.data.supervised import RowFormat, SupervisedDataConfig
from rlhf.data.text import TextDataConfig
from rlhf.types import InputError

LEAVES = st.none() | st.booleans() | st.integers(-2, 3) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES |= st.just(10**400)  # larger than a float
TEXT = st.sampled_from(["", " ", "你好", "a", "user", "assistant", "tool", "gpt", "human", "text", "function_call",
                        "[1]", "{", "\u200b",
                        "<|im_end|>", "\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"])  # fmt: skip
INNER = ["role", "content", "from", "value", "text", "type", "tool_calls", "function", "name", "arguments", "response",
         "overall_score", "post", "title", "weight", "train"]  # fmt: skip
OUTER = ["prompt", "response", "messages", "conversations", "instruction", "input", "output", "system", "history",
         "tools", "chosen", "rejected", "info", "summaries", "choice", "completions", "completion", "label", "steps",
         "labels", "text"]  # fmt: skip
JSON = st.recursive(
    LEAVES | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries(
    {"role": TEXT, "content": TEXT}, optional={"tool_calls": JSON, "name": JSON, "weight": LEAVES}
)
TURN = st.fixed_dictionaries({"from": TEXT, "value": TEXT}, optional={"weight": LEAVES, "loss": LEAVES})
VALUE = JSON | TEXT | st.lists(MESSAGE, max_size=4) | st.lists(TURN, max_size=4) | TURN | st.lists(TEXT, max_size=3)
CONFIGS = [
    *(SupervisedDataConfig(format=form) for form in [None, *RowFormat]),
    *(PreferenceDataConfig(format=form) for form in [None, *PairFormat]),
    RankingDataConfig(format=PairFormat.pairs, chosen_score_key="label", rejected_score_key="choice"),
    KTODataConfig(),
    StepDataConfig(),
    TextDataConfig(),
]


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda config: f"{type(config).__name__}-{getattr(config, 'format', '')}"
)
@given(row=st.dictionaries(st.sampled_from(OUTER), VALUE, max_size=5))
@settings(max_examples=80, deadline=None)
def test_units_or_a_sentence(tmp_path_factory, bytes_tokenizer, config, row):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    config = config.at(str(path))
    units, sentence = [], None
    try:
        units = config.load(bytes_tokenizer, context_tokens=200, quarantine=config.quarantine())
    except InputError as error:
        sentence = str(error)
    assert (sentence is None) == bool(units)
    assert sentence is None or sentence.startswith(f"{path}:1: ")
    assert all(0 < row.num_loss_tokens < row.num_tokens <= 200 for unit in units for row in unit)
    assert {row.source for unit in units for row in unit} <= {f"{path}:1"}


def test_another_file_is_read_alone_and_whole():
    config = TextDataConfig(path="a", limit=3, general_path="b", max_tokens=9).at("c")
    assert (config.path, config.limit, config.general_path, config.max_tokens) == ("c", None, None, 9)
    config = SupervisedDataConfig(path="a", limit=3, labels=["x", "y"]).at("c")
    assert (config.path, config.limit, config.labels) == ("c", None, ["x", "y"])
