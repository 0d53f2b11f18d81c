"""Conversion of command-line words to overrides: plain text that Hydra's grammar refuses is quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from antlr4 import CommonTokenStream, InputStream, ParserRuleContext
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.overrides_visitor import HydraErrorListener
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from rlhf.paths import PATHS, WRITTEN
from rlhf.types import InputError

REFUSED = re.compile(r"[^\w/\\+.$%*@?|:\- \t()\[\]{},='\"]", re.ASCII)
"""Characters that an unquoted value may not have, such as accents, Chinese, `~`, `#` and `&`."""
TYPED = re.compile(r"[+-]?[\d.][\d._e+-]*|[+-]?(inf|nan)|true|false", re.ASCII | re.IGNORECASE)
"""Pattern of values that Hydra reads as a number or a boolean."""
TEXTS = ("data.labels", *PATHS, *WRITTEN)
"""Keys whose values are always text, such as a class `true` or a folder `1e3`."""
ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")
CALL = re.compile(r"(\w+)\s*\(.*\)\s*", re.ASCII | re.DOTALL)


def hydra_arguments(words: Sequence[str]) -> list[str]:
    """Return the arguments of a Hydra main, overrides first, then options; the input may be in any order. Raises
    InputError."""
    parser = get_args_parser()

    def refuse(sentence: str) -> None:
        raise InputError(f"{sentence}; options come from --multirun, --cfg job, --config-dir FOLDER and --help")

    parser.error = refuse  # type: ignore[assignment, method-assign]
    overrides = parser.parse_intermixed_args(list(words)).overrides
    options = list(words)
    for override in overrides:
        options.remove(override)
    return [*as_overrides(overrides), *options]


def as_overrides(words: Sequence[str]) -> list[str]:
    """Convert each `key=value` so that Hydra parses it; lists, dicts, numbers, functions and sweeps keep their
    meaning."""
    parser = OverridesParser.create()
    return [as_override(parser, word) for word in words]


def as_override(parser: OverridesParser, word: str) -> str:
    key, _, value = word.partition("=")
    takes_text = key.lstrip("+") in TEXTS

    def needs_quotes(text: str) -> bool:
        is_quoted = text[0] in "'\""
        return not is_quoted and bool(REFUSED.search(text) or (takes_text and TYPED.fullmatch(text)))

    if not value or not is_override(parser, f"{key}=x"):
        return word
    # Replaces each refused character by one letter, so that positions in the text stay.
    plain = f"{key}={REFUSED.sub('x', value)}"
    if is_override(parser, plain):
        for start, stop in sorted(values_in(plain), reverse=True):
            if needs_quotes(word[start:stop]):
                word = word[:start] + quoted(ESCAPED.sub(r"\1", word[start:stop])) + word[stop:]
        return word
    call = CALL.fullmatch(value)
    # Hydra itself reports wrong arguments of a function that it knows.
    return word if call and call[1] in parser.functions.functions else f"{key}={quoted(value)}"


def is_override(parser: OverridesParser, word: str) -> bool:
    try:
        parser.parse_rule(word, "override")
    except HydraException:
        return False
    return True


def values_in(override: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each value in an override: a single value, or those in lists, dicts, functions and
    sweeps."""
    lexer = OverrideLexer(InputStream(override))
    parser = OverrideParser(CommonTokenStream(lexer))
    for recognizer in (lexer, parser):
        recognizer.removeErrorListeners()
        recognizer.addErrorListener(HydraErrorListener())
    found: list[ParserRuleContext] = [parser.override()]
    while found:
        context = found.pop()
        if isinstance(context, OverrideParser.PrimitiveContext):
            yield context.start.start, context.stop.stop + 1
        else:
            found += [child for child in context.getChildren() if isinstance(child, ParserRuleContext)]


def quoted(text: str) -> str:
    """Return a text as a quoted value of Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()


PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_/.][\w./-]*", re.ASCII | re.IGNORECASE)
"""Text that Hydra reads as the same text without quotes."""


def as_value(value: object) -> str:
    """Return a text, a number, a boolean, None, or a list of them, as the value of an override."""
    if isinstance(value, list):
        return f"[{','.join(map(as_value, value))}]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)
