r"""Accuracy of the mathematics rewards on right and wrong answers, in the forms that models write.

    python -m benchmarks.answer_forms [GSM8K.jsonl]

The table has a row per form and reward: how many right and how many wrong answers score 1. With a file of GSM8K
(`{"answer": "... #### 72"}` on each line), its gold answers are put into sentences in both languages, after a
calculation with other numbers: the right answer, and answers wrong by one, by a digit and by the sign.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np

from rlhf.rewards.math import math_verify
from rlhf.rewards.numeric import numeric
from rlhf.types import Prompt, Rollout

REWARDS: dict[str, Callable[[Prompt, Rollout], float]] = {"numeric": numeric, "math_verify": math_verify}
WORKING = {
    "en": "She starts with {a} and gets {b} more, so {a} + {b} = {c}. Then she gives 2 away.\n",
    "zh": "她原来有{a}个,又得到{b}个,所以{a}+{b}={c}。然后送出2个。\n",
}
SENTENCES = {
    "en": ("The answer is {}.", "So the answer is ${}.", "So {} apples.", "Therefore, she has {} apples left.", "Answer: {}",  # noqa: E501
           "**Answer:** {}", "Final answer: **{}**", "**Final Answer**\n\n{}", "The final answer is {} dollars.", "**{}**",  # noqa: E501
           "$${}$$", "$x = {}$", "x = {}", "The answer is $x = {}$.", r"\boxed{{{}}}", r"$\boxed{{{}}}$",
           r"The answer is \(\boxed{{{}}}\).", "#### {}", "#### ${}", "The answer is {}, which is more than 3.",
           "The answer is that all 4 girls have {} apples.", "Total = {}", "It costs ${} in all.", "Ans: {}",
           "\\[{}\\]", "She needs {}%."),
    "zh": ("答案是{}。", "答案是:{}", "所以答案为{}元。", "所以一共是{}元。", "所以一共有{}个苹果。", "最终答案:{}", "最终答案:{}",  # noqa: E501
           "答:{}", "答:小明一共有{}个苹果。", "答:4个女孩一共有{}个苹果。", "因此,**{}**", "**答案**:{}", "综上所述,答案是**{}**。",  # noqa: E501
           "【答案】{}", "正确答案应为{}。", "答案是${}$。", "答案是$x = {}$。", r"答案是\boxed{{{}}}。", "x = {}",
           "$${}$$", "#### {}", "答案是{}个,比3个多。", "答案是{}%。", "共需¥{}。", "最后答案等于{}米"),
}  # fmt: skip
NUMBERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # form: gold, right, wrong
    "integer": ("16", ("16", "16.0", "１６", "16.00", "016"), ("15", "61", "-16", "160", "1.6", "16.5", "1/16")),
    "negative": ("-5", ("-5", "−5", "–5", "－5", "‐5", "-5.0", "-$5", "$-5"), ("5", "-6", "−6", "15", "-15")),
    "thousands": ("1234", ("1,234", "1，234", "１，２３４", "1{,}234", r"1\,234"), ("1,235", "234", "1", "1.234")),
    "million": ("2,520,000", ("2520000", "2,520,000", "252万", "2.52 million"), ("2.52", "252", "520,000", "2.52万")),
    "decimal": ("12.5", ("12.5", "12.50", "25/2", r"\frac{25}{2}", "12 1/2"), ("12", "5", "125", "1.25", "-12.5")),
    "fraction": ("1/2", ("1/2", r"\frac{1}{2}", r"\frac12", r"\dfrac{1}{2}", "0.5", "2/4", "½", "二分之一"),
                 ("2", "1", "1/3", "2/1", r"\frac{2}{1}", r"\frac13", "-1/2", "12", "三分之一")),
    "LaTeX fraction": (r"\frac{3}{4}", ("3/4", r"\frac{3}{4}", "0.75", "¾", "四分之三"), ("4", "3", "4/3", "3/5", "34")),  # noqa: E501
    "mixed number": ("1 1/2", ("1 1/2", r"1\frac{1}{2}", "1½", "3/2", "1.5", "1又1/2", "一又二分之一"),
                     ("1/2", "11/2", "2", "1", "1 1/3", r"1\frac12 1")),
    "percent": ("50%", ("50%", "50\\%", "５０％", "50 percent", "50", "百分之五十"), ("5%", "0.5%", "2", "-50%", "51%")),  # noqa: E501
    "scientific": ("1.6e5", ("160000", "1.6e5", r"1.6 \times 10^5", r"1.6\times10^{5}", "1.6×10⁵", "16万"),
                   ("1.6", "5", "10", "1.6e4", r"1.6 \times 10^4", "1.6×10^6")),
    "units": ("72 km/h", ("72", "72 km/h", "72km/h", "72 公里"), ("71 km/h", "7.2 km/h", "27", "-72 km/h")),
    "squares": ("72 m^2", ("72 m^2", "72 m²", "72平方米", r"72 \text{ m}^2"), ("2", "71 m^2", "72^2", "722")),
    "currency": ("$5.50", ("$5.50", r"\$5.50", "5.5", "5.50元", "¥5.5", "5.5 dollars"), ("$5", "$5.05", "5.51", "50")),
    "Chinese words": ("16", ("十六", "十六个"), ("十五", "六十一", "六")),
}  # fmt: skip
SPANS = {
    "en": ("The answer is {}.", "Answer: {}", "#### {}", r"\boxed{{{}}}", "Final answer: **{}**"),
    "zh": ("答案是{}。", "最终答案:{}", "答:{}", r"\boxed{{{}}}", "答案为**{}**。"),
}
EXPRESSIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "x^2+1": (("1+x^2", "x^2 + 1"), ("x^2-1", "x^2", "2", "1")),
    r"\sqrt{2}": ((r"\sqrt{2}", r"$\sqrt2$", "√2"), ("2", r"\sqrt{3}", "1.4")),
    "(1, 2)": (("(1,2)", "$(1, 2)$"), ("(2,1)", "2", "(1,3)")),
    r"\frac{\pi}{2}": ((r"\frac{\pi}{2}", r"\pi/2", "π/2"), ("2", r"\pi", r"\frac{\pi}{3}", "1/2")),
    r"\text{even}": (("even", "Even", r"\text{even}"), ("odd", "not even", "neve")),
}
"""Answers that are not numbers; `numeric` refuses them."""
REFUSED = {"numeric": ("Paris", "3x+2", "1,234,56", "3 or 5", "15-16", "3:4", "x^2"), "math_verify": ("",)}


def score(reward: str, gold: str, text: str) -> float:
    prompt = Prompt(id="p", messages=[], token_ids=(1,), source="", meta={"answer": gold})
    empty = np.zeros(1, np.int32)
    rollout = Rollout(prompt_id="p", token_ids=empty, loss_mask=empty > 0, logprobs=np.zeros(1, np.float32),
                      versions=empty, stop="stop", text=text)  # fmt: skip
    return REWARDS[reward](prompt, rollout)


def cases() -> Iterator[tuple[str, str, str, str, str, bool]]:
    """Yield form, language, reward, gold answer, completion, and whether it is right."""
    for language, sentences in SENTENCES.items():
        working = WORKING[language].format(a=9, b=15, c=24)
        for sentence in sentences:
            for said, right in (("16", True), ("15", False), ("61", False), ("-16", False), ("1/16", False)):
                for reward in REWARDS:
                    yield sentence, language, reward, "16", working + sentence.format(said), right
    for form, (gold, rights, wrongs) in NUMBERS.items():
        for language, spans in SPANS.items():
            for said, right in [(each, True) for each in rights] + [(each, False) for each in wrongs]:
                for span in spans:
                    for reward in REWARDS:
                        text = WORKING[language].format(a=9, b=15, c=24) + span.format(said)
                        yield f"{form}: {gold}", language, reward, gold, text, right
    for gold, (rights, wrongs) in EXPRESSIONS.items():
        for language, spans in SPANS.items():
            for said, right in [(each, True) for each in rights] + [(each, False) for each in wrongs]:
                for span in spans:
                    yield f"expression: {gold}", language, "math_verify", gold, span.format(said), right


def table() -> list[str]:
    """Print the table; return the wrong scores as sentences."""
    counts: dict[tuple[str, str, str], Counter[str]] = {}
    mistakes = []
    for form, language, reward, gold, text, right in cases():
        count = counts.setdefault((form, language, reward), Counter())
        value = score(reward, gold, text)
        kind = "right" if right else "wrong"
        count[kind] += 1
        count[f"{kind} scored 1"] += int(value)
        if value != right:
            mistakes.append(f"{reward} gives {value:g} to {text!r} for {gold!r}")
    print("| form | language | reward | right: scored 1 | wrong: scored 1 |\n|---|---|---|---|---|")
    for (form, language, reward), count in counts.items():
        right, wrong = (f"{count[f'{kind} scored 1']} of {count[kind]}" for kind in ("right", "wrong"))
        print(f"| `{form!r}` | {language} | {reward} | {right} | {wrong} |")
    for reward, golds in REFUSED.items():
        for gold in golds:
            try:
                score(reward, gold, "72")
            except ValueError:
                print(f"| gold {gold!r} | | {reward} | refused | refused |")
            else:
                mistakes.append(f"{reward} does not refuse the gold answer {gold!r}")
    return mistakes


def said_of(gold: str) -> list[tuple[str, bool]]:
    """Return a gold number unchanged, without and with separators, and wrong by one, by a digit and by the sign."""
    number = Decimal(gold.replace(",", ""))
    plain = str(number)
    digit = str((int(plain[-1]) + 5) % 10)
    wrong = [str(number + 1), str(number - 1), plain[:-1] + digit, f"{number}1", str(-number)]
    return [
        (gold, True),
        (plain, True),
        (f"{number:,}", True),
        *((each, False) for each in wrong if Decimal(each) != number),
    ]


def gsm8k(path: Path) -> tuple[Counter[str], list[str]]:
    """Return counts by reward and language over all gold answers, and the first mistakes."""
    draw = random.Random(0)
    counts: Counter[str] = Counter()
    mistakes: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        answer = json.loads(line)["answer"]
        gold = answer.rpartition("####")[2].strip()
        a, b = draw.randint(2, 99), draw.randint(2, 99)
        for language, sentences in SENTENCES.items():
            sentence = draw.choice(sentences)
            for said, right in said_of(gold):
                text = WORKING[language].format(a=a, b=b, c=a + b) + sentence.format(said)
                for reward in REWARDS:
                    value = score(reward, answer, text)
                    kind = "false negatives" if right else "false positives"
                    counts[f"{reward} {language} {'right' if right else 'wrong'}"] += 1
                    counts[f"{reward} {language} {kind}"] += value != right
                    if value != right and len(mistakes) < 20:
                        mistakes.append(f"{reward} gives {value:g} to {text!r} for {gold!r}")
    return counts, mistakes


def main() -> int:
    mistakes = table()
    print(f"\n{len(mistakes)} mistakes in the table", *mistakes[:60], sep="\n  ")
    for name in sys.argv[1:]:
        began = time.perf_counter()
        counts, found = gsm8k(Path(name))
        print(
            f"\n{name}, {time.perf_counter() - began:.0f} s",
            *(f"{k}: {v}" for k, v in sorted(counts.items())),
            sep="\n  ",
        )
        print(*found, sep="\n  ")
        mistakes += found
    return bool(mistakes)


if __name__ == "__main__":
    sys.exit(main())
