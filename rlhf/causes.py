"""Errors behind an error."""

from __future__ import annotations

from collections.abc import Iterator


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
