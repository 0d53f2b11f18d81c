"""Limits on the rows of an export that one user may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from serve.feedback.labels import FeedbackRow


def within_shares(
    rows: Sequence[FeedbackRow], *, max_rows: int, max_share: float
) -> tuple[list[FeedbackRow], list[FeedbackRow]]:
    """Split rows into the rows to keep and the surplus rows of users above the limits; both keep their order.

    No user has more than `max_rows` of the kept rows, nor more than `max_share` of them. Removing rows lowers the
    number that the share allows, so the limit per user is lowered until it holds. It is at least 1: with fewer than
    1 / `max_share` users the share cannot hold.
    """
    limit = max_rows
    while True:
        kept, cut = limit_rows(rows, limit)
        allowed = max(1, int(max_share * len(kept)))
        if most_rows(kept) <= allowed:
            return kept, cut
        limit = allowed


def limit_rows(rows: Sequence[FeedbackRow], limit: int) -> tuple[list[FeedbackRow], list[FeedbackRow]]:
    """Split rows into the first rows of each user, up to `limit`, and the others."""
    taken: Counter[str] = Counter()
    kept, cut = [], []
    for row in rows:
        if any(taken[user] >= limit for user in row.users):
            cut.append(row)
        else:
            taken.update(row.users)
            kept.append(row)
    return kept, cut


def most_rows(rows: Sequence[FeedbackRow]) -> int:
    """Return the largest number of rows of one user; 0 without rows."""
    return max(Counter(user for row in rows for user in row.users).values(), default=0)


def largest_share(rows: Sequence[FeedbackRow]) -> float:
    """Return the largest share of the rows that one user has."""
    return most_rows(rows) / len(rows)
