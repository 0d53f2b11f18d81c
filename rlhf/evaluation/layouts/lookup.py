"""Lookup of the layout that a suite names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.evaluation.layouts.base import Layout
from rlhf.lookup import bind_options, find_named

_PLACE = "rlhf.evaluation.layouts"
_CHOOSING, _PROMPTING, _READING, _WRITING = (
    f"{_PLACE}.{name}" for name in ("choosing", "prompting", "reading", "writing")
)
LAYOUTS: Mapping[str, str] = {
    "rows": f"{_PROMPTING}:own",
    "squad": f"{_READING}:squad",
    "webqa": f"{_READING}:webqa",
    "classification": f"{_CHOOSING}:classified",
    "lettered_choices": f"{_CHOOSING}:lettered",
    "listed_choices": f"{_CHOOSING}:listed",
    "gpqa": f"{_CHOOSING}:gpqa",
    "truthful_qa": f"{_CHOOSING}:truthful_qa",
    "endings": f"{_CHOOSING}:continued",
    "bias_pairs": f"{_CHOOSING}:bias_pair",
    "gsm8k": f"{_WRITING}:gsm8k",
    "math": f"{_WRITING}:math",
    "aime": f"{_WRITING}:aime",
    "if_eval": f"{_WRITING}:if_eval",
    "bfcl": f"{_WRITING}:bfcl",
    "summaries": f"{_WRITING}:summary",
    "dialogues": f"{_PROMPTING}:dialogue",
    "refusals": f"{_PROMPTING}:refusable",
    "paraphrases": f"{_PROMPTING}:paraphrases",
    "order_swaps": f"{_CHOOSING}:order_swaps",
    "texts": f"{_WRITING}:plain",
}
"""Short names of layouts."""


def find_layout(spec: str, options: Mapping[str, Any], key: str) -> Layout:
    """Return the layout with its options bound; `key` is the suite's in the configuration. Raises InputError."""
    name, function = find_named(
        f"{key}.layout", spec, LAYOUTS, f"{key}.layout={spec}: there is no layout of this name; use"
    )
    return bind_options("layout", name, function, ("where", "row"), f"{key}.layout_options", options)
