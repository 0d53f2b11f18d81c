"""Sentences, words and the language of a text, by rules instead of trained models.

Instruction checks of the literature use NLTK's Punkt and langdetect, whose models are downloads. The rules here agree
with them on ordinary prose. They differ on abbreviations (Punkt ends a sentence after `i.e.`), on the numbers of a list
(Punkt counts `1.` as a sentence), and on Latin texts of less than a sentence or in languages without a list of frequent
words, of which only the script is checked.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from rlhf.evaluation.metrics.exact import HAN

_ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "mt", "ave", "blvd", "rev", "hon", "gen", "col", "sgt", "capt",
     "lt", "rep", "sen", "gov", "vs", "etc", "e.g", "i.e", "cf", "al", "fig", "figs", "vol", "pp", "ed", "eds",
     "approx", "dept", "est", "inc", "ltd", "co", "corp", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep",
     "sept", "oct", "nov", "dec", "u.s", "u.k", "u.n", "a.m", "p.m", "ph.d", "b.a", "m.a", "m.d", "d.c"}
)  # fmt: skip
_STARTERS = frozenset(
    {"the", "a", "this", "these", "it", "he", "she", "they", "we", "i", "there", "in", "if", "when", "while", "but",
     "however", "although", "then", "so", "some", "many", "most"}
)  # fmt: skip
"""Words that begin a sentence if they follow an abbreviation in upper case."""
_END = re.compile(r"""(?:[.!?]+)["'”’)\]*_]*(?=\s|$)""")
_CHINESE_END = re.compile(r"""[。!?！？…]+["'”’)\]）】」』》*_]*""")
_CONTRACTION = re.compile(r"(?i)(?<=.)(n't|'(?:s|m|d|ll|re|ve))$")

_SCRIPTS = {
    "ar": "ARABIC", "fa": "ARABIC", "ur": "ARABIC", "bn": "BENGALI", "bg": "CYRILLIC", "mk": "CYRILLIC",
    "ru": "CYRILLIC", "uk": "CYRILLIC", "el": "GREEK", "gu": "GUJARATI", "he": "HEBREW", "hi": "DEVANAGARI",
    "mr": "DEVANAGARI", "ne": "DEVANAGARI", "ja": "KANA", "kn": "KANNADA", "ko": "HANGUL", "ml": "MALAYALAM",
    "pa": "GURMUKHI", "ta": "TAMIL", "te": "TELUGU", "th": "THAI", "zh": "CJK", "zh-cn": "CJK", "zh-tw": "CJK",
}  # fmt: skip
"""Scripts by language code, as the first word of a letter's Unicode name; all other languages are Latin."""
_FREQUENT = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to in is that it for you was with on as are this be have not they your will from my can",
        "es": "el la los las de que y en un una es por con para se del como su pero más al lo este está muy",
        "pt": "o os as de que e em um uma é por com para se do da não como mais mas ao seu sua são na no",
        "fr": "le la les des de et en un une est que pour dans qui sur pas au avec il elle ce cette du je vous nous",
        "de": "der die das und ist in den von zu mit sich nicht ein eine auf für im dem des auch es ich sie wir als",
        "it": "il lo la gli le di che e un una è per con non del della sono si nel alla anche come più questo",
        "pl": "i w na z do się nie jest to że jak o po co ale od za przez dla są tym oraz być ma ich",
        "vi": "và của là có không được cho một những các trong với người này đã để khi như về từ",
        "sw": "na ya wa kwa ni za katika la kuwa cha hii au yake lakini kama hiyo watu moja sana ili",
        "fi": "ja on ei se että oli hän joka mutta ovat kun myös niin tai sen tämä kuin ole voi mitä",
        "nl": "de het een en van is dat niet op te zijn voor met die aan er ook maar wordt bij naar",
        "hi": "है के में की को और से का हैं पर यह कि एक नहीं था भी कर ने",
        "mr": "आहे आणि या च्या मध्ये आहेत तो ती हे नाही एक होते केली साठी मी",
        "ne": "छ र को मा छन् हो पनि यो गर्न भएको लागि एक हुन्छ थियो गर्ने",
    }.items()
}
_LETTERS = {
    "uk": "іїєґ", "ru": "ыэё", "bg": "ъ", "mk": "ѓќѕџљњ", "ur": "ٹڈڑےںہھ", "fa": "پچژگکی", "ar": "ةيكىأإ",
}  # fmt: skip
"""Letters that set a language apart from others of its script."""


def count_sentences(text: str, *, chinese: bool = False) -> int:
    """Return the number of sentences: ends at `.`, `!` or `?` before white space, and of Chinese at `。！？…` too.

    A full stop after an abbreviation, an initial or a number of a list, or before a lower-case word, ends none. Text
    after the last end is a sentence.
    """
    if chinese:
        return sum(count_sentences(part) for part in _CHINESE_END.split(text))
    count, start = 0, 0
    for end in _END.finditer(text):
        before, after = text[start : end.end()], text[end.end() : end.end() + 100].lstrip()
        if end[0].startswith(".") and _continues(before, after):
            continue
        if re.search(r"\w", before):
            count += 1
        start = end.end()
    return count + (re.search(r"\w", text[start:]) is not None)


def _continues(before: str, after: str) -> bool:
    """Return whether a full stop is inside a sentence."""
    word = (before.split() or [""])[-1].rstrip("\"'”’)]*_")
    bare = word.strip("\"'“‘([").rstrip(".").lower()
    if after[:1].islower() or after[:1] in {",", ";", ":"}:
        return True
    if word.endswith("..") or not after:
        return False
    is_initial = re.fullmatch(r"[A-Za-z]", bare) is not None and bare != "i"
    is_list_number = bare.isdigit() and re.search(r"(?:^|\n)\s*[0-9]+\.$", before) is not None
    follower = re.match(r"[A-Za-z]*", after)
    starts = bare in _ABBREVIATIONS and follower is not None and follower[0].lower() in _STARTERS
    return is_initial or is_list_number or (bare in _ABBREVIATIONS and not starts)


def count_words(text: str, *, chinese: bool = False) -> int:
    r"""Return the number of words, runs of `\w`; of Chinese, of characters and of words of other scripts."""
    return len(re.findall(rf"[{HAN}]|[^\W{HAN}]+" if chinese else r"\w+", text))


def count_capital_words(text: str) -> int:
    """Return the number of words in capitals, split as NLTK's Treebank rules do: a hyphen joins, DON'T is two."""
    count = 0
    for chunk in re.split(r"\s+|[\"“”()\[\]{}<>;?!—…]|--|\.{2,}|[,:](?![0-9])", text):
        word = chunk.strip("'`*,:").removesuffix(".") if chunk.count(".") <= 1 else chunk
        parts = _CONTRACTION.split(word.replace("’", "'")) if "'" in word or "’" in word else [word]
        count += sum(part.isupper() for part in parts)
    return count


def is_language(text: str, code: str) -> bool:
    """Return whether a text is in the language of an ISO 639-1 code, or has no letters at all.

    Most of the letters are of the language's script; among languages of one script, the text has no more of another
    one's distinctive letters or frequent words.
    """
    code = code.lower()
    script = _SCRIPTS.get(code, "LATIN")
    scripts = Counter(_script(letter) for letter in text if letter.isalpha())
    if not scripts:
        return True
    if scripts["KANA"] * 10 >= scripts["CJK"] and scripts["KANA"]:  # Japanese has characters of Chinese too
        scripts["KANA"] += scripts.pop("CJK", 0)
    if scripts.most_common(1)[0][0] != script:
        return False
    scores = {each: _evidence(text, each) for each in {*_FREQUENT, *_LETTERS} if _SCRIPTS.get(each, "LATIN") == script}
    if code not in scores:
        return not scores or code.startswith("zh") or _is_none_of(text, scores)
    if code == "en" and not any(scores.values()):
        return text.isascii()
    return scores[code] == max(scores.values())


def _is_none_of(text: str, scores: dict[str, int]) -> bool:
    """Return whether less than a tenth of the words are frequent ones of any language with a list."""
    return max(scores.values()) * 10 < max(len(text.split()), 1)


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").replace("FULLWIDTH ", "").partition(" ")[0]
    return "KANA" if name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else name


def _evidence(text: str, code: str) -> int:
    letters = sum(text.lower().count(letter) for letter in _LETTERS.get(code, ""))
    words = re.findall(r"[^\W\d_][^\s\d.,;:!?\"()।]*", text.lower())
    return letters + sum(word in _FREQUENT.get(code, frozenset()) for word in words)
