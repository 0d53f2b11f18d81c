"""What each reward says of a completion."""

from __future__ import annotations

import pytest
from reward_samples import prompt, rollout

from rlhf.rewards.exact import exact
from rlhf.rewards.format import format
from rlhf.rewards.length import length
from rlhf.rewards.math import math_verify
from rlhf.rewards.numeric import numeric

GSM8K = "She sold 48/2 = <<48/2=24>>24 in May.\nTogether 48+24 = <<48+24=72>>72.\n#### 72"


@pytest.mark.parametrize(
    ("answer", "text", "score"),
    [
        ("北京", " 北京\n", 1.0),
        ("北京", "北京。", 0.0),
        (72, "72", 1.0),
        ("Yes", "yes", 0.0),
        (0, "0", 1.0),
        ("", "", 1.0),
    ],
)
def test_exact_compares_letter_by_letter(answer: object, text: str, score: float) -> None:
    assert exact(prompt(answer), rollout(text)) == score


def test_exact_can_ignore_case() -> None:
    assert exact(prompt("Straße"), rollout("STRASSE"), ignore_case=True) == 1.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (GSM8K, "so it is 72."),
        (GSM8K, "答案是７２。"),
        (GSM8K, "一共是72个"),
        (GSM8K, "72.00"),
        (GSM8K, r"\boxed{72} of the 100"),
        (GSM8K, r"first \boxed{3}, then \boxed{\text{72}}"),
        (GSM8K, "#### 72\nLet me check 3 of them"),
        (GSM8K, "it covers 72 m^2 and 72 m2"),
        (GSM8K, "72 cm²"),
        (GSM8K, "75-3=72"),
        (GSM8K, "75-72"),
        ("1,234,567", "1234567"),
        ("1234", r"$1{,}234$"),
        ("1234", "１，２３４元"),
        ("-5", "x = -5"),
        ("-5", "答案：－５"),
        ("-5", "it is −5"),
        ("-5", "-$5"),
        ("50%", "50 percent"),
        ("50", "５０％"),
        ("12.5", r"\$12.50"),
        ("0.5", ".5"),
        (3, "1,2,3"),
        (72, "v2 has 72"),
    ],
)
def test_numeric_finds_the_number(answer: object, text: str) -> None:
    assert numeric(prompt(answer), rollout(text)) == 1.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (GSM8K, ""),
        (GSM8K, "no number"),
        (GSM8K, "72, no, 73"),
        (GSM8K, r"72 \boxed{x}"),
        ("5", "x = -5"),
        ("0.5", "50%"),
        ("102", "10²"),
        ("1234", "1,234,56"),
        ("0.1", "0.10000000000000001"),
        ("72", "7" * 100_000),
    ],
)
def test_numeric_rejects_another_number(answer: str, text: str) -> None:
    assert numeric(prompt(answer), rollout(text)) == 0.0


def test_numeric_needs_a_number_in_the_answer() -> None:
    with pytest.raises(ValueError, match=r"prompt 'p0' \(data.jsonl:1\): its answer 'Paris' holds no number"):
        numeric(prompt("Paris"), rollout("72"))


@pytest.mark.parametrize(
    ("answer", "text", "score"),
    [
        (GSM8K, "so it is 72", 1.0),
        (GSM8K, "答案是 ７２", 1.0),
        (GSM8K, "#### 71", 0.0),
        (GSM8K, "a total of 48 + 16 = 64 points.\n#### 72", 1.0),
        (GSM8K, "#### The answer is 72", 1.0),
        (GSM8K, "", 0.0),
        (r"\frac{1}{2}", "0.5", 1.0),
        (r"\frac{1}{2}", r"所以 $x = \frac{2}{4}$", 1.0),
        ("x^2+1", r"\boxed{1+x^2}", 1.0),
        ("3x+2", "it is 3", 0.0),
        (r"We get \boxed{(1, 2)}", r"\boxed{(1,2)}", 1.0),
        ("$5", "5", 1.0),
        ("10", r"\boxed{\frac{1}{", 0.0),
    ],
)
def test_math_verify_compares_mathematics(answer: str, text: str, score: float) -> None:
    assert math_verify(prompt(answer), rollout(text)) == score


def test_math_verify_needs_a_readable_answer() -> None:
    with pytest.raises(ValueError, match="math-verify cannot read its answer ''"):
        math_verify(prompt(""), rollout("72"))


@pytest.mark.parametrize("reward", [exact, numeric, math_verify])
def test_an_answer_must_be_there(reward: object) -> None:
    with pytest.raises(ValueError, match=r"'p0' \(data.jsonl:1\) has no answer: set data.answer_key to the column"):
        reward(prompt(), rollout("72"))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>\n想一想\n</think>\n答案是 3", 1.0),
        (" <think></think>3", 1.0),
        ("<think>no answer</think> \n", 0.0),
        ("3 <think>late</think> 3", 0.0),
        ("<think>open 3", 0.0),
        ("<think>a <think>b</think> c</think> 3", 0.0),
        ("<think>a</think><think>b</think> 3", 0.0),
        ("<think>a</think> 3</think>", 0.0),
        ("", 0.0),
    ],
)
def test_format_wants_thinking_then_an_answer(text: str, score: float) -> None:
    assert format(prompt(), rollout(text)) == score


def test_format_takes_a_pattern_for_the_whole_text() -> None:
    pattern = r".*\\boxed\{.+\}.*"
    assert format(prompt(), rollout("so\n\\boxed{3}."), pattern=pattern) == 1.0
    assert format(prompt(), rollout("so 3"), pattern=pattern) == 0.0


@pytest.mark.parametrize(("num_tokens", "score"), [(0, 0), (12, 0), (13, -0.25), (14, -0.5), (16, -1), (17, -1)])
def test_length_falls_over_the_buffer(num_tokens: int, score: float) -> None:
    assert length(prompt(), rollout(num_tokens=num_tokens), max_tokens=16, buffer_tokens=4) == score


def test_length_without_a_buffer_is_a_step() -> None:
    scores = [length(prompt(), rollout(num_tokens=n), max_tokens=16, buffer_tokens=0) for n in (16, 17)]
    assert scores == [0.0, -1.0]


def test_length_refuses_a_buffer_beyond_the_maximum() -> None:
    with pytest.raises(ValueError, match="buffer_tokens=5 must lie between 0 and max_tokens=4"):
        length(prompt(), rollout(), max_tokens=4, buffer_tokens=5)
