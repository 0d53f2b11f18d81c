"""Fresh items: right answers by another way, seeds, and what is refused."""

from __future__ import annotations

import importlib.util
from datetime import date
from typing import Any

import pytest

from rlhf.evaluation.procedural import TASKS, make_rows
from rlhf.evaluation.reasoning_gym import make_reasoning_gym_rows
from rlhf.evaluation.suite import SuiteConfig, load_suite
from rlhf.types import InputError

LANGUAGES = ("en", "zh")
HAS_REASONING_GYM = importlib.util.find_spec("reasoning_gym") is not None


def rows(task: str, **options: Any) -> list[dict[str, Any]]:
    return [row for _, row in make_rows(task, **options)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_arithmetic_has_the_digits_of_its_level(language):
    operations = {"+": int.__add__, "-": int.__sub__, "×": int.__mul__}
    for row in rows("arithmetic", level=3, language=language):
        left, sign, right, *_ = row["prompt"].split()
        assert len(left) == len(right) == 3
        assert row["answer"] == str(operations[sign](int(left), int(right)))


@pytest.mark.parametrize("language", LANGUAGES)
def test_sorted_numbers_are_those_of_the_prompt(language):
    for row in rows("sorting", level=2, language=language):
        listed = row["prompt"].splitlines()[0].replace("：", ": ").partition(": ")[2]
        numbers = list(map(int, row["answer"].split()))
        assert len(numbers) == 7
        assert numbers == sorted(map(int, listed.split()))


@pytest.mark.parametrize("language", LANGUAGES)
def test_reversed_texts_are_in_the_prompt(language):
    for row in rows("reversal", level=2, language=language):
        assert len(row["answer"]) == 8
        assert "".join(reversed(row["answer"])) in row["prompt"]


def test_counted_letters():
    for row in rows("letter_counts", level=2):
        words = row["prompt"].partition("?")[0].split()
        assert row["answer"] == str(len(words[-1].split(words[6])) - 1)
    for row in rows("letter_counts", level=2, language="zh"):
        text, counted = (part.partition("”")[0] for part in row["prompt"].split("“")[1:])
        assert row["answer"] == str(len(text.split(counted)) - 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_dates_are_as_many_days_apart(language):
    for row in rows("calendar", level=3, language=language):
        words = row["prompt"].replace("?", "").split()
        start = next(word for word in words if word.count("-") == 2)
        days = next(int(word) for word in words if word.isdigit())
        assert (date.fromisoformat(row["answer"]) - date.fromisoformat(start)).days == days <= 1000


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", TASKS)
def test_items_follow_from_the_seed_and_differ(task, language):
    first, again = (rows(task, seed=1, size=50, language=language) for _ in range(2))
    assert first == again
    assert len({row["prompt"] for row in first}) == 50
    assert not {row["id"] for row in first} & {row["id"] for row in rows(task, seed=2, size=50, language=language)}
    assert first[:20] == rows(task, seed=1, size=20, language=language)


def suite_of(**options: Any):
    return load_suite("sums", SuiteConfig(path="procedural:arithmetic", source_options=options), "root")


def test_another_seed_is_another_digest():
    first, same, other = (suite_of(seed=seed, size=5) for seed in (1, 1, 2))
    assert first.digest == same.digest != other.digest
    assert len(first.items) == 5


@pytest.mark.parametrize(
    ("path", "options", "sentence"),
    [
        ("procedural:poems", {}, "there is no task of this name; use arithmetic, sorting"),
        (
            "procedural:arithmetic",
            {"size": 0},
            "size=0, level=1, seed=1: give whole numbers, size and level at least 1",
        ),
        ("procedural:arithmetic", {"size": "ten"}, "give whole numbers"),
        ("procedural:arithmetic", {"language": "fr"}, "use zh, en"),
        ("procedural:arithmetic", {"seeds": 2}, "its options: size, seed, level, language"),
        ("procedural:arithmetic", {"size": 400}, "has fewer different items: lower size, or raise level"),
        ("procedural:calendar", {"level": 9}, "the calendar has levels up to 5"),
        ("rows.jsonl", {"size": 3}, "is a file, which has none"),
    ],
)
def test_what_cannot_be_made_is_refused(path, options, sentence):
    with pytest.raises(InputError, match=r"suite\.fresh: ") as raised:
        load_suite("fresh", SuiteConfig(path=path, source_options=options), None)
    assert sentence in str(raised.value)


def test_fresh_items_have_no_files():
    with pytest.raises(InputError, match="fresh items have no files"):
        load_suite("fresh", SuiteConfig(path="procedural:sorting", joined="answers.jsonl"), None)


@pytest.mark.skipif(HAS_REASONING_GYM, reason="reasoning-gym is installed")
def test_a_missing_package_is_named_with_its_command():
    with pytest.raises(InputError, match=r"pip install 'rlhf\[reasoning-gym\]'"):
        load_suite("fresh", SuiteConfig(path="reasoning_gym:chain_sum"), None)


@pytest.mark.skipif(not HAS_REASONING_GYM, reason="reasoning-gym is not installed")
def test_items_of_reasoning_gym():
    first, again, other = (list(make_reasoning_gym_rows("chain_sum", size=5, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    for _, row in first:
        assert row["answer"].lstrip("-").isdigit()
    with pytest.raises(InputError, match="reasoning-gym refuses them"):
        list(make_reasoning_gym_rows("no_such_task"))
    with pytest.raises(InputError, match="reasoning-gym refuses them"):
        list(make_reasoning_gym_rows("chain_sum", no_such_option=1))
