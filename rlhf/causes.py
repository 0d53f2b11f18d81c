"""Errors behind an error, and texts for its message."""

from __future__ import annotations

from collections.abc import Iterator

_QUOTED_CHARACTERS = 200


def causes(error: BaseException, *, suppressed: bool = True) -> Iterator[BaseException]:
    """Yield the error and, from the outermost to the innermost, those that it followed: its cause, or what was being
    handled when it was raised. `suppressed`: also what `raise ... from None` hides.

    Each comes once: in a debugger OmegaConf's errors are each other's causes.
    """
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        hidden = following.__suppress_context__ and not suppressed
        following = following.__cause__ or (None if hidden else following.__context__)


def root_cause(error: BaseException) -> str:
    """Return the innermost error, `ConnectionRefusedError: [Errno 111] Connection refused`, without its wrappers."""
    *_, innermost = causes(error)
    return f"{type(innermost).__name__}: {innermost}"


def first_words(text: str) -> str:
    """Return the beginning of a text on one line, for a message; "nothing" for a blank text."""
    line = " ".join(text.split()) or "nothing"
    return line if len(line) <= _QUOTED_CHARACTERS else f"{line[:_QUOTED_CHARACTERS]}..."
