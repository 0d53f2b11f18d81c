"""Fresh items whose right answer is computed: no model can have seen them. Equal seeds give equal items."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from rlhf.evaluation.text import Language
from rlhf.types import InputError

ATTEMPTS = 100
"""Draws per item before a level counts as exhausted: items of a set differ."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHARACTERS = "天地日月山水火木金土风云雨雪花鸟鱼虫"
Problem = tuple[str, str]
"""Prompt and right answer."""


def make_rows(
    task: str, *, size: int = 200, seed: int = 1, level: int = 1, language: str = "en"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `size` different rows `{"id", "prompt", "answer", "task", "level"}` of a task of `TASKS`.

    A higher `level` has longer items. Raises InputError for an unknown task or language, for numbers below 1, and for
    more rows than the level has.
    """
    check(task, size, seed, level, language)
    numbers = random.Random(f"{task}/{level}/{language}/{seed}")
    seen: set[str] = set()
    for number in range(size):
        where = f"procedural:{task}:{number}"
        for _ in range(ATTEMPTS):
            prompt, answer = TASKS[task](numbers, level, Language(language))
            if prompt not in seen:
                break
        else:
            raise InputError(
                f"{where}: size={size}, level={level} has fewer different items: lower size, or raise level"
            )
        seen.add(prompt)
        row = {"id": f"{task}-{seed}-{number}", "prompt": prompt, "answer": answer, "task": task, "level": level}
        yield where, row


def check(task: str, size: int, seed: int, level: int, language: str) -> None:
    if task not in TASKS:
        raise InputError(f"path=procedural:{task}: there is no task of this name; use {', '.join(TASKS)}")
    if not all(isinstance(each, int) for each in (size, seed, level)) or size < 1 or level < 1:
        raise InputError(
            f"source_options: size={size}, level={level}, seed={seed}: give whole numbers, size and level at least 1"
        )
    if language not in list(Language):
        raise InputError(f"source_options.language={language}: use {', '.join(Language)}")
    if task == "calendar" and level > MAX_CALENDAR_LEVEL:
        raise InputError(f"source_options.level={level}: the calendar has levels up to {MAX_CALENDAR_LEVEL}")


def arithmetic(numbers: random.Random, level: int, language: Language) -> Problem:
    """Return a sum, a difference or a product of whole numbers with `level` digits."""
    low, high = 10 ** (level - 1) if level > 1 else 0, 10**level - 1
    left, right, sign = numbers.randint(low, high), numbers.randint(low, high), numbers.choice("+-×")
    answer = {"+": left + right, "-": left - right, "×": left * right}[sign]
    ending = "只写得数。" if language is Language.zh else "Write only the result."
    return f"{left} {sign} {right} = ?\n{ending}", str(answer)


def sorting(numbers: random.Random, level: int, language: Language) -> Problem:
    """Return 3 + 2 * level whole numbers below 1000 to be sorted."""
    values = numbers.sample(range(1000), 3 + 2 * level)
    listed, answer = " ".join(map(str, values)), " ".join(map(str, sorted(values)))
    if language is Language.zh:
        return f"把这些数从小到大排列：{listed}\n只写这些数，用空格隔开。", answer
    return (
        f"Sort these numbers from the smallest to the largest: {listed}\nWrite only the numbers, with spaces.",
        answer,
    )


def reversal(numbers: random.Random, level: int, language: Language) -> Problem:
    """Return 4 * level letters, or Chinese characters, to be written backwards."""
    alphabet = CHARACTERS if language is Language.zh else LETTERS
    text = "".join(numbers.choice(alphabet) for _ in range(4 * level))
    if language is Language.zh:
        return f"把这串字倒过来写：{text}\n只写结果。", text[::-1]
    return f"Write these letters backwards: {text}\nWrite only the result.", text[::-1]


def letter_counts(numbers: random.Random, level: int, language: Language) -> Problem:
    """Return 8 * level letters of four kinds, or Chinese characters, one of which is to be counted."""
    kinds = numbers.sample(CHARACTERS if language is Language.zh else LETTERS, 4)
    text = "".join(numbers.choice(kinds) for _ in range(8 * level))
    counted = numbers.choice(kinds)
    if language is Language.zh:
        return f"“{text}”里有几个“{counted}”？\n只写数字。", str(text.count(counted))
    return f"How many times does the letter {counted} occur in {text}?\nWrite only the number.", str(
        text.count(counted)
    )


MAX_CALENDAR_LEVEL = 5
"""Largest level of dates: 100,000 days."""
FIRST_DAY, NUM_DAYS = date(1900, 1, 1), 73000


def calendar(numbers: random.Random, level: int, language: Language) -> Problem:
    """Return a date of the Gregorian calendar and up to 10 ** level days to be added to it."""
    start = FIRST_DAY + timedelta(days=numbers.randrange(NUM_DAYS))
    days = numbers.randint(1, 10**level)
    answer = (start + timedelta(days=days)).isoformat()
    if language is Language.zh:
        return f"{start.isoformat()} 之后第 {days} 天是哪一天？\n只写日期，格式为 YYYY-MM-DD。", answer
    unit = "day" if days == 1 else "days"
    return f"Which date is {days} {unit} after {start.isoformat()}?\nWrite only the date as YYYY-MM-DD.", answer


TASKS: Mapping[str, Callable[[random.Random, int, Language], Problem]] = {
    "arithmetic": arithmetic,
    "sorting": sorting,
    "reversal": reversal,
    "letter_counts": letter_counts,
    "calendar": calendar,
}
"""Functions of a source of random numbers, the level and the language, by the names that suites use."""
