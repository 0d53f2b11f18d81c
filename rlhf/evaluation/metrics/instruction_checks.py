"""Checks of IFEval's 25 verifiable instructions (Zhou et al. 2023, table 1 and the published checks), in two languages.

A check takes the text, whether the suite is Chinese, and the keyword arguments of the published file. In a Chinese
suite words are characters, sentences and paragraphs are 句 and 段, and full-width punctuation counts as its kind. Apart
from sentences and languages (see `sentences`) one thing differs from the published checks: keywords are read literally,
not as regular expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from rlhf.evaluation.metrics.exact import HAN
from rlhf.evaluation.metrics.sentences import count_capital_words, count_sentences, count_words, is_language

RELATIONS = ("less than", "at least")
OPTIONS = {
    False: ("My answer is yes.", "My answer is no.", "My answer is maybe."),
    True: ("我的答案是是。", "我的答案是否。", "我的答案是不确定。"),
}
"""Replies to choose from, by whether the suite is Chinese."""
_POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
_NUMERAL = r"(?:\d+|[一二三四五六七八九十百]+)"


def _keywords(text: str, chinese: bool, /, *, keywords: Sequence[str]) -> bool:
    return all(keyword.lower() in text.lower() for keyword in keywords)


def _keyword_frequency(text: str, chinese: bool, /, *, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(text.lower().count(keyword.strip().lower()), relation, frequency)


def _forbidden_words(text: str, chinese: bool, /, *, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(_whole(word), text, re.IGNORECASE) for word in forbidden_words)


def _whole(word: str) -> str:
    """Return the pattern of a whole word; Chinese has no marks between words."""
    return re.escape(word) if re.search(f"[{HAN}]", word) else rf"\b{re.escape(word)}\b"


def _letter_frequency(text: str, chinese: bool, /, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _holds(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _response_language(text: str, chinese: bool, /, *, language: str) -> bool:
    return is_language(text, language)


def _number_sentences(text: str, chinese: bool, /, *, num_sentences: int, relation: str) -> bool:
    return _holds(count_sentences(text, chinese=chinese), relation, num_sentences)


def _number_words(text: str, chinese: bool, /, *, num_words: int, relation: str) -> bool:
    return _holds(count_words(text, chinese=chinese), relation, num_words)


def _number_paragraphs(text: str, chinese: bool, /, *, num_paragraphs: int) -> bool:
    """Count paragraphs between lines of `***`; of Chinese without such a line, lines with text."""
    if chinese and "***" not in text:
        return len([line for line in text.splitlines() if line.strip()]) == num_paragraphs
    return _num_parts(re.split(r"\s?\*\*\*\s?", text)) == num_paragraphs


def _num_parts(parts: Sequence[str]) -> int:
    """Return the number of parts without an empty first or last one; -1 if one between them is empty."""
    if any(not part.strip() for part in parts[1:-1]):
        return -1
    return sum(bool(part.strip()) for part in parts)


def _nth_first_word(text: str, chinese: bool, /, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = re.split(r"\n+" if chinese and "\n\n" not in text else r"\n\n", text)
    count, index = sum(bool(part.strip()) for part in parts), int(nth_paragraph) - 1
    if count != num_paragraphs or not 0 <= index < count or not parts[index].strip():
        return False
    paragraph = parts[index].strip()
    if chinese:
        return paragraph.lstrip("\"'“‘「《*").lower().startswith(first_word.lower())
    word = paragraph.split()[0].lstrip("'").lstrip('"').lower()
    return re.split(r"""[.,?!'"]""", word, maxsplit=1)[0] == first_word.lower()


def _placeholders(text: str, chinese: bool, /, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\]\n]*\]|【[^】\n]*】" if chinese else r"\[[^\]\n]*\]", text)) >= num_placeholders


def _postscript(text: str, chinese: bool, /, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return re.search(_POSTSCRIPTS.get(marker, re.escape(marker.lower())), text.lower()) is not None


def _bullets(text: str, chinese: bool, /, *, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    return len(stars) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE)) == num_bullets


def _constrained(text: str, chinese: bool, /, *, options: Sequence[str] = ()) -> bool:
    return any(option in text for option in options or OPTIONS[chinese])


def _highlights(text: str, chinese: bool, /, *, num_highlights: int) -> bool:
    single = [each for each in re.findall(r"\*[^\n*]*\*", text) if each.strip("*").strip()]
    double = [each for each in re.findall(r"\*\*[^\n*]*\*\*", text) if each[2:-2].strip()]
    return len(single) + len(double) >= num_highlights


def _sections(text: str, chinese: bool, /, *, section_spliter: str, num_sections: int) -> bool:
    word = re.escape(section_spliter.strip())
    pattern = rf"{word}\s?{_NUMERAL}|第\s?{_NUMERAL}\s?{word}" if chinese else rf"{word}\s?\d+"
    return len(re.findall(pattern, text)) >= num_sections


def _json(text: str, chinese: bool, /) -> bool:
    text = re.sub(r"^```(?:json|Json|JSON)?", "", text.strip()).removesuffix("```").strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, chinese: bool, /) -> bool:
    titles = [line[line.find("<<") : line.rfind(">>") + 2] for line in text.split("\n") if "<<" in line]
    titles += re.findall(r"《[^\n》]+》", text) if chinese else []
    return any(title.strip("<>《》").strip() for title in titles)


def _two_responses(text: str, chinese: bool, /) -> bool:
    parts = text.split("******")
    written = [part.strip() for part in parts if part.strip()]
    return _num_parts(parts) == 2 and written[0] != written[1]


def _repeat_prompt(text: str, chinese: bool, /, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(text: str, chinese: bool, /, *, end_phrase: str) -> bool:
    return text.strip().strip('"”' if chinese else '"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, chinese: bool, /, *, capital_frequency: int, capital_relation: str) -> bool:
    return _holds(count_capital_words(text), capital_relation, capital_frequency)


def _english_capital(text: str, chinese: bool, /) -> bool:
    return text.isupper() and is_language(text, "en")


def _english_lowercase(text: str, chinese: bool, /) -> bool:
    return text.islower() and is_language(text, "en")


def _no_comma(text: str, chinese: bool, /) -> bool:
    return "," not in text and not (chinese and "，" in text)


def _quotation(text: str, chinese: bool, /) -> bool:
    marks = {'""', "“”", "「」"} if chinese else {'""'}
    return len(text.strip()) > 1 and text.strip()[0] + text.strip()[-1] in marks


def _holds(count: int, relation: str, threshold: float) -> bool:
    return count < threshold if relation == RELATIONS[0] else count >= threshold


CHECKS: Mapping[str, Callable[..., bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _response_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _english_capital,
    "change_case:english_lowercase": _english_lowercase,
    "punctuation:no_comma": _no_comma,
}
"""Checks by the ids of the published file: `check(text, chinese, **kwargs)` is whether the text follows."""
