r"""Location of the answer in a text, in the same order for every reward that compares mathematics.

1. The content of the last `\boxed{}`.
2. The text after the last `####` on its line, unless the line is a heading.
3. The text after the last phrase that announces an answer: `the answer is`, `Answer:`, `答案是`, `答：`.
4. The last expression: a formula between dollars or a number.

Text up to `</think>` is not an answer. In 1 to 3 the expression is at the beginning of the span, or, if the span begins
with words, the last expression of its sentence (`the answer is that she has 16 apples`). Nothing is guessed in favour
of the policy: a span with two answers (`15 or 16`) or none has no expression.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlhf.rewards.number import (
    HEDGE,
    NOT_ALONE,
    NUMBER,
    Number,
    joined_sign,
    leading_chinese,
    plain_numbers,
    read_number,
)
from rlhf.rewards.text import boxed, half_width, marked

_ENGLISH = (
    r"\b(?:final\s+|correct\s+)?(?:answers?|ans)\b(?:\s*\([^()\n]{0,30}\))?(?:\s+(?:to|for|of)\s[^.\n=:]{0,80}?)?\s*"
    r"(?:(?:is|are|was|equals|would\s+be|should\s+be|must\s+be|will\s+be|comes\s+to)\b|[:=]|\.(?=\s*[0-9$]))\s*:?"
)
_CHINESE = (
    r"(?:最终|最后|正确|标准)?的?答案\s*(?:应该|应当|就)?(?:不是|并非|是|应?为|為|等于|[:=])\s*:?|【(?:最终)?答案】\s*:?"
    r"|(?<![解回问作应])答\s*:"
)
_HEADING = r"^[#\s]*(?:the\s+)?(?:final\s+)?(?:answer|(?:最终)?答案)\s*$"
_PHRASE = re.compile(rf"(?:{_ENGLISH}|{_CHINESE}|{_HEADING})", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(r"[。!?](?=\s|$)|[。]|\.(?=\s|$)|\n")
_NOT = re.compile(r"\s*(?:not\b|n't\b|不是|并非)", re.IGNORECASE)
_BUT = re.compile(r"\bbut\b(?:\s+rather)?|而(?:应该?)?是", re.IGNORECASE)
# A dollar before white space, or one before a digit, is money and opens or ends nothing (pandoc's rule).
_FORMULA = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$|\\\[(?P<bracket>.{1,2000}?)\\\]|\\\((?P<paren>.{1,2000}?)\\\)"
    r"|\$(?=[^\s$])(?P<inline>[^$\n]*[^\s$])\$(?![0-9])",
    re.DOTALL,
)
_MASK = "\ue000"
"""Placeholder for a formula in the search for numbers outside formulas."""
_NUMBER_OR_MASK = re.compile(f"{_MASK}|{NUMBER.pattern}", NUMBER.flags)
_BEFORE_DENIED = re.compile(r"(?:\bnot\s+|n't\s+|不是|不等于|≠|!=|\\neq?)\s*$", re.IGNORECASE)
_BEFORE_HEDGED = re.compile(
    rf"[0-9{_MASK}]\s*(?:[A-Za-z]+|[\u4e00-\u9fff]{{1,3}}?)?\s*(?:\bor|或者?|还是)\s*(?:[A-Za-z]+\s+|[A-Za-z]\s*=\s*)?$"
    rf"|[0-9{_MASK}]\s*(?:[~:到至])\s*$|\bbetween\s[^.\n]{{1,30}}$"
)
_BEFORE_PART = re.compile(
    r"(?:(?<![A-Za-z])[A-Za-z]|[)}π])\s*[-+*/^]\s*$|\{\s*$|√\s*$|\b(?:sqrt|sin|cos|tan|log|ln)\s*\(?$|\\[A-Za-z]+\s*$"
)
_AFTER_FORMULA = re.compile(r"\s*(?:[,、]|(?:and|or)\b|和|或者?|以及)\s*[-$\\0-9]")
_MULTIPLE = re.compile(r"\s*(?:百万|千万|[万萬亿億千]|(?:hundred|thousand|million|billion)\b)", re.IGNORECASE)
_FUNCTIONS = re.compile(r"\\[A-Za-z]+|\b(?:sin|cos|tan|log|ln|exp|sqrt|pi|max|min)\b")
_OPERATOR = re.compile(r"\s*(?:[A-Za-z]+|[\u4e00-\u9fff]{1,3})?\s*(?:=|[-+*×÷]\s*[0-9$¤])")
_CLAUSE = re.compile(r"[,;](?!\s*[-$¤¥]?[0-9])|\s\((?=[^()]*[A-Za-z\u4e00-\u9fff]{2})|\b(?:because|since)\b|因为|由于")
_CONDITION = re.compile(r"\s*(?:that\s+)?(?:if|when|for|after|with|at)\b|如果|若|当|按|每|经过", re.IGNORECASE)
_MAX_EXPRESSION = 500


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a text that holds its answer."""

    text: str
    """Text without emphasis, from the announcement to the end of its sentence, or the whole text."""
    is_announced: bool
    """True if a box, a mark or a phrase announces the answer."""
    rest: str = ""
    """Text after the sentence of a phrase, read if the sentence has no expression."""


def answer_span(text: str) -> Span:
    """Return the span with the answer of a text, in the order above."""
    text = clean(text.rpartition("</think>")[2])
    content = boxed(text)
    if content is not None:
        return Span(unwrapped(content), is_announced=True)
    line = marked(text)
    if line is not None and not _is_heading(line, text):
        return Span(unwrapped(line), is_announced=True)
    phrases = list(_PHRASE.finditer(text))
    return (
        _announced(text[phrases[-1].end() :], phrases[-1][0]) if phrases else Span(unwrapped(text), is_announced=False)
    )


def expression(span: Span) -> str | None:
    """Return the expression of a span; None or "" if it has none, or several."""
    if span.is_announced:
        found = _leading(span.text)
        return found if found is not None else _stated(span.text) or _last(span.rest)
    if _is_formula(span.text) and re.search(r"[A-Za-z\\√π]", span.text):
        return _leading(span.text)
    return _last(span.text)


def number_in(text: str) -> Number | None:
    """Return the number that a completion answers with."""
    return _read(expression(answer_span(text)))


def gold_number(text: str) -> Number | None:
    """Return the number of a gold answer. Without an announcement the text must have exactly one number, with a unit or
    in a sentence: the gold answer is never guessed."""
    span = answer_span(text)
    if span.is_announced:
        return _read(expression(span))
    whole = read_number(leading_chinese(plain_numbers(span.text)))
    if whole is not None:
        return whole
    formula = _FORMULA.fullmatch(span.text)
    if formula is not None:
        return _read(_inside(formula))
    num_numbers = len(list(NUMBER.finditer(plain_numbers(span.text))))
    return None if _is_formula(span.text) or num_numbers != 1 else _read(expression(span))


def _read(found: str | None) -> Number | None:
    found = re.sub(r"^\(([^()]*)\)$", r"\1", found or "")
    return read_number(leading_chinese(plain_numbers(found))) if found else None


def clean(text: str) -> str:
    """Return the text in half width, with ASCII minus signs and without emphasis."""
    text = half_width(text).replace("{,}", ",").replace("\\!", "").replace("\\%", "%").replace("\\$", "¤")
    text = re.sub(r"(?<=[0-9])(?:\\,|[\u2009\u202f])(?=[0-9]{3})", ",", text)
    text = re.sub(r"(?<![0-9A-Za-z)*])(\*{1,3}|__|`)(?=[^\s*])([^*`\n]{1,500}?)(?<=\S)\1(?!\*)", r"\2", text)
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", _superscript, text)
    # The patterns take quadratic time in the length of a run of blanks, which a policy may repeat thousands of times.
    text = re.sub(r"(\s)\1{8,}", lambda found: found[1] * 8, text)
    return text.strip()


def _superscript(found: re.Match[str]) -> str:
    return f"^{{{found[0].translate(str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁻', '0123456789-'))}}}"


def unwrapped(text: str) -> str:
    """Return the text without LaTeX that only changes its appearance."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|operatorname|mbox)\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;: ]|~(?![0-9])", " ", text).strip()


def _is_heading(line: str, text: str) -> bool:
    """Return whether `#### line` begins a section: words, or a number with a title, and more text after it."""
    follows = text.rpartition("####")[2].strip() != line.strip()
    return follows and (re.match(r"\s*[0-9]+\.\s+[^\W\d]", line) is not None or not _leading(unwrapped(line)))


def _announced(rest: str, phrase: str) -> Span:
    """Return the sentence after a phrase, from the next line if this line has no more text."""
    is_next_line = "\n" in rest[: len(rest) - len(rest.lstrip(" \t\n"))]
    rest = rest.lstrip()
    if is_next_line:
        rest = re.sub(r"^(?:[-*•>]\s+)+", "", rest)
    formula = _FORMULA.match(rest)
    end = _SENTENCE.search(rest, formula.end() if formula else 0)
    sentence = rest[: end.start()] if end else rest
    after = rest[end.end() :] if end else ""
    if "不是" in phrase or "并非" in phrase or _NOT.match(sentence):
        parts = _BUT.split(sentence, maxsplit=1)
        return Span(unwrapped(parts[1]) if len(parts) > 1 else "", is_announced=True)
    if phrase.rstrip().endswith(":") and _is_statement(sentence):
        is_reply = "答案" not in phrase and "答" in phrase
        return Span((is_reply and _stated(sentence)) or "", is_announced=True)
    return Span(unwrapped(sentence), is_announced=True, rest=unwrapped(after))


def _is_statement(sentence: str) -> bool:
    """Return whether the first clause begins with a number and has another one after words (4 girls have 16 apples)."""
    clause = plain_numbers(_CLAUSE.split(sentence, maxsplit=1)[0])
    numbers = list(NUMBER.finditer(clause))
    if len(numbers) < 2 or numbers[0].start() > 0 or "=" in clause:
        return False
    return re.search(r"[A-Za-z]{2}|[\u4e00-\u9fff]", clause[numbers[0].end() : numbers[-1].start()]) is not None


def _leading(text: str) -> str | None:
    """Return the expression at the beginning of a span; "" if it begins with several."""
    text = joined_sign(text)
    formula = _FORMULA.match(text)
    if formula is not None:
        after = text[formula.end() :]
        multiple = _MULTIPLE.match(after)
        return "" if _AFTER_FORMULA.match(after) else _inside(formula) + (multiple[0] if multiple else "")
    plain = leading_chinese(plain_numbers(text))
    number = NUMBER.match(plain)
    if number is None:
        return text.rstrip(" .,;!?。") if _is_formula(text) else None
    if HEDGE.match(plain, number.end()):
        return ""
    return _chain(text) if NOT_ALONE.match(plain, number.end()) or _OPERATOR.match(plain, number.end()) else number[0]


def _chain(text: str) -> str:
    """Return the clause that a number opens, starting after its last equals sign if a number follows there."""
    clause = _CLAUSE.split(text, maxsplit=1)[0].rstrip(" .!?。")[:_MAX_EXPRESSION]
    last = joined_sign(clause.rpartition("=")[2].strip())
    is_last_a_number = "=" in clause and NUMBER.match(plain_numbers(last))
    return (_leading(last) or "") if is_last_a_number else clause


def _stated(sentence: str) -> str | None:
    """Return the last expression of the first clause that has one and is no condition: later clauses compare with
    it."""
    clauses = _CLAUSE.split(_FORMULA.sub(lambda found: found[0].replace(",", "\ue001"), sentence))
    for clause in clauses:
        found = None if _CONDITION.match(clause) else _last(clause.replace("\ue001", ","))
        if found is not None:
            return found
    return _last(sentence)


def _last(text: str) -> str | None:
    """Return the last formula or number of a text that is not negated; None if it is one of two or part of another."""
    formulas = list(_FORMULA.finditer(text))
    text = plain_numbers(_FORMULA.sub(_MASK, text))
    for each in reversed(list(_NUMBER_OR_MASK.finditer(text))):
        before = text[max(each.start() - 60, 0) : each.start()]
        formula = formulas.pop() if each[0] == _MASK else None
        if _BEFORE_DENIED.search(before) or (formula and not re.search(r"[0-9]|\\[A-Za-z]{2}", formula[0])):
            continue
        if _BEFORE_HEDGED.search(before) or _BEFORE_PART.search(before):
            return None
        return _tail(text, each) if formula is None else _sign(before) + _inside(formula)
    return None


def _tail(text: str, number: re.Match[str]) -> str:
    """Return the number, or the number with the text after it if that changes the value (16π, 3x)."""
    follows = NOT_ALONE.match(text, number.end())
    return text[number.start() :].partition("\n")[0].rstrip(" .。")[:_MAX_EXPRESSION] if follows else number[0]


def _sign(before: str) -> str:
    return "-" if re.search(r"(?:^|[^0-9A-Za-z)}\s])-$|\s-$", before) else ""


def _inside(formula: re.Match[str]) -> str:
    return next(part for part in formula.groups() if part is not None).strip().rstrip(".,;。")[:_MAX_EXPRESSION]


def _is_formula(text: str) -> bool:
    """Return whether a text is mathematics without any word."""
    if not text or len(text) > _MAX_EXPRESSION or re.search(r"[\u4e00-\u9fff]", text):
        return False
    bare = _FUNCTIONS.sub("", text)
    if re.search(r"(?<![0-9A-Za-z])[A-Za-z]{2}|[A-Za-z]{3}|[A-Za-z]\s+[A-Za-z]", bare):
        return False
    return bool(re.search(r"[0-9\\=+^]", text) or re.fullmatch(r"\(?[A-Za-z]\)?", text))
