"""Exact parsing of numbers in English, Chinese and LaTeX notation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

MAX_DIGITS = 1000
"""Largest number of digits; longer numbers are not read, since their arithmetic is too slow."""
MAX_EXPONENT = 300

CHINESE_DIGITS = {**{c: i for i, c in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
CHINESE_POWERS = {"万": 10**4, "亿": 10**8}
_CHINESE = f"[{''.join(CHINESE_DIGITS)}{''.join(CHINESE_UNITS)}万亿]"
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
           "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
_MULTIPLES = {"百万": 10**6, "千万": 10**7, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8, "千": 1000, "百": 100,
              "k": 1000, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9,
              "trillion": 10**12}  # fmt: skip
_SIZE = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_TIMES_TEN = r"\s*(?:×|\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*"
# A minus after a letter, digit or bracket subtracts; digits after a letter or ^ belong to a name (H2O, m^2).
NUMBER = re.compile(
    r"(?P<minus>(?<![0-9A-Za-z)\]}%])-|\b(?:negative|minus)\s+|负|零下)?\+?"
    r"(?<![0-9A-Za-z_.^/])(?<!\^\{)(?<!\^-)(?<!\^\{-)"
    r"(?:(?:(?:US|HK)?[$¤¥€£₹]\s?|\b(?:RMB|USD|CNY|EUR)\s?)(?P<minus_after>-)?)?"
    rf"(?:(?P<whole>[0-9]+)\s+(?P<top>[0-9]+)/(?P<bottom>[0-9]+)(?![0-9/.])"
    rf"|(?P<numerator>{_SIZE})\s*/\s*(?P<denominator>{_SIZE})(?!\s*/\s*[0-9]|[0-9.]*\.[0-9])"
    rf"|(?P<base>{_SIZE})\^\{{?(?P<power>-?[0-9]+)\}}?"
    rf"|(?P<size>{_SIZE})(?:[eE](?P<e>[+-]?[0-9]+)(?![0-9A-Za-z])|{_TIMES_TEN}\{{?\s*(?P<ten>[+-]?[0-9]+)\s*\}}?)?)"
    r"(?:\s*(?P<multiple>百万|千万|[万萬亿億]|千(?![克米瓦卡])|百(?!分)|(?-i:k)(?![A-Za-z])"
    r"|(?:hundred|thousand|million|billion|trillion)\b))?"
    r"(?P<percent>\s*(?:\\?%|(?:percent(?:age)?|pct)\b|个百分点))?",
    re.IGNORECASE,
)
_UNKNOWN = r"(?:[xyzn](?![A-Za-z])|π|√|\\(?!text|mathrm|[,;! ]|circ|%))"
NOT_ALONE = re.compile(
    rf"\s*(?:[-+*×÷]\s*(?:[0-9(\\$¤.√π]|[A-Za-z](?![A-Za-z]))|/\s*(?:[0-9(\\$¤.]|[xyzn](?![A-Za-z]))|\^|\*\*|{_UNKNOWN}"
    r"|[=<>≤≥]|[,:~]\s*[-$¤¥]?[0-9]|、\s*[-$¤¥]?[0-9]|\s[-$¤¥]?[0-9]|\.[0-9]|\([0-9\s.+\-*/xyz]+\)|‰"
    r"|(?:(?:and|to)\b|[和与到至])\s*[-$¤¥]?[0-9])"
    r"|[abcpqrwABCXYZN](?![A-Za-z])",
)
"""Pattern after a number that is part of something else: an operator, a variable, a list, a range."""
HEDGE = re.compile(
    r"\s*(?:[A-Za-z]+|[\u4e00-\u9fff]{1,3}?)?\s*(?:\bor\b|或者?|还是)\s*(?:[A-Za-z]+\s+|[A-Za-z]\s*=\s*)?[-$¤¥]?[0-9]"
)
"""Pattern after a number that is one of two alternatives."""
# A unit may contain digits only as exponents.
_UNIT = re.compile(r"(?:[^\W\d_]|[\s./·'\"()\-°]|\\circ|\^\{?-?[0-9]\}?|(?<=[A-Za-z])[23](?![0-9]))*[.,;?。]*\s*")
_MAX_UNIT = 60


@dataclass(frozen=True, slots=True)
class Number:
    """A number without its unit."""

    value: Fraction
    """Value as written, exact: 5 of 5 %."""
    is_percent: bool
    """True if a percent sign or word follows the number."""


def same(gold: Number, other: Number) -> bool:
    """Return whether the numbers are exactly equal. A percent sign on one side only is ignored from 1 upwards (50 %
    equals 50); below 1 it counts, so that 0.5 and 0.5 % differ."""
    return gold.value == other.value and (gold.is_percent == other.is_percent or abs(gold.value) >= 1)


def read_number(text: str) -> Number | None:
    """Return the number that `text` (see `plain_numbers`) consists of, with or without a unit; None for any other text.

    In an equation (`x = 5`, `3 + 2 = 5`) the number is after the last equals sign.
    """
    text = joined_sign(text.rpartition("=")[2].strip().rstrip(".,;?。"))
    found = NUMBER.match(text)
    if found is None or NOT_ALONE.match(text, found.end()) or HEDGE.match(text, found.end()):
        return None
    unit = text[found.end() :]
    return number_of(found) if len(unit) <= _MAX_UNIT and _UNIT.fullmatch(unit) else None


def joined_sign(text: str) -> str:
    """Return the text without white space after a leading minus."""
    return re.sub(r"^-\s+(?=[0-9.$¤¥€£₹])", "-", text)


def number_of(found: re.Match[str]) -> Number | None:
    """Return the number of a match of `NUMBER`; None if it is too large to be read or divides by zero."""
    parts = found.groupdict()
    if found.end() - found.start() > MAX_DIGITS or (parts["minus"] and parts["minus_after"]):
        return None
    exponents = [int(parts[name]) for name in ("e", "ten", "power") if parts[name]]
    if any(abs(exponent) > MAX_EXPONENT for exponent in exponents):
        return None
    try:
        value = _size_of(parts)
    except ZeroDivisionError:
        return None
    value *= _MULTIPLES[(parts["multiple"] or "").lower()] if parts["multiple"] else 1
    sign = -1 if parts["minus"] or parts["minus_after"] else 1
    return Number(sign * value, parts["percent"] is not None)


def _size_of(parts: dict[str, str | None]) -> Fraction:
    if parts["whole"]:
        return Fraction(int(parts["whole"])) + Fraction(int(parts["top"] or 0), int(parts["bottom"] or 0))
    if parts["numerator"]:
        return _decimal(parts["numerator"]) / _decimal(parts["denominator"])
    if parts["base"]:
        return _decimal(parts["base"]) ** int(parts["power"] or 0)
    return _decimal(parts["size"]) * Fraction(10) ** int(parts["e"] or parts["ten"] or 0)


def _decimal(text: str | None) -> Fraction:
    return Fraction(Decimal((text or "").replace(",", "")))


def plain_numbers(text: str) -> str:
    r"""Return the text with the fractions `\frac{a}{b}`, `½` and `二分之一` as `a/b`, mixed numbers as `1 1/2`, and
    Chinese percentages as `50%`. Everything else stays."""
    text = re.sub(r"(?<=[0-9])\s*又\s*(?=[0-9])", " ", _chinese_fractions(text))
    text = re.sub(r"(?:(?<=[0-9])\s*(?:又|\band\b)?\s*)?\\[dtc]?frac\s*(?:\{\s*(-?[0-9.,]+)\s*\}|([0-9]))\s*"
                  r"(?:\{\s*([0-9.,]+)\s*\}|([0-9]))", _fraction, text)  # fmt: skip
    return re.sub(rf"\s*([{''.join(_VULGAR)}])", lambda found: _apart(found, _VULGAR[found[1]]), text)


def _fraction(found: re.Match[str]) -> str:
    return _apart(found, f"{found[1] or found[2]}/{found[3] or found[4]}")


def _apart(found: re.Match[str], fraction: str) -> str:
    """Return the fraction, with a space before it after a whole number, as in 1 1/2."""
    before = found.string[: found.start()]
    return f" {fraction}" if before[-1:].isdigit() or found[0][:1].isspace() else fraction


def _chinese_fractions(text: str) -> str:
    if "分之" not in text:
        return text
    text = re.sub(rf"百分之\s*({_CHINESE}+(?:点{_CHINESE}+)?)", lambda found: f"{chinese_number(found[1])}%", text)
    text = re.sub(r"百分之\s*([0-9.]+)", r"\1%", text)
    whole = rf"(?:({_CHINESE}+|[0-9]+)\s*又\s*)?"
    return re.sub(rf"{whole}({_CHINESE}+|[0-9]+)\s*分之\s*({_CHINESE}+|[0-9]+)", _chinese_fraction, text)


def _chinese_fraction(found: re.Match[str]) -> str:
    whole, bottom, top = (part and (part if part.isascii() else chinese_number(part)) for part in found.groups())
    return f"{whole} {top}/{bottom}" if whole else f"{top}/{bottom}"


def leading_chinese(text: str) -> str:
    """Return the text with a leading number in Chinese characters as digits: 十六个 is 16个."""
    found = re.match(rf"(负|零下)?({_CHINESE}+)(?:点({_CHINESE}+))?(?!分之|又|[\u4e00-\u9fff]?半)", text)
    if found is None:
        return text
    whole = found[2] + (f"点{found[3]}" if found[3] else "")
    return f"{'-' if found[1] else ''}{chinese_number(whole)}{text[found.end() :]}"


def chinese_number(text: str) -> str:
    """Return a number in Chinese characters as digits: 一百二十 is 120, 二〇二四 2024, 三点五 3.5."""
    whole, _, decimals = text.partition("点")
    if decimals:
        return f"{chinese_number(whole)}.{''.join(str(CHINESE_DIGITS.get(c, 0)) for c in decimals)}"
    if len(whole) > 1 and all(character in CHINESE_DIGITS for character in whole):
        return str(int("".join(str(CHINESE_DIGITS[character]) for character in whole)))
    total = section = digit = 0
    for character in whole:
        if character in CHINESE_DIGITS:
            digit = CHINESE_DIGITS[character]
        elif character in CHINESE_UNITS:
            section += (digit or 1) * CHINESE_UNITS[character]
            digit = 0
        else:
            power = CHINESE_POWERS[character]
            section = section + digit or (0 if total else 1)
            total = (total + section) * power if character == "亿" else total + section * power
            section = digit = 0
    return str(total + section + digit)
