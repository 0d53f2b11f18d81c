"""Limits on the rows of an export that one user may have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from serve.feedback.labels import FeedbackRow


def within_shares(
    rows: Sequence[FeedbackRow], *, max_rows: int, max_share: float
) -> tuple[list[FeedbackRow], list[FeedbackRow]]:
    """Split rows into those that stay and those of users who have too many; both keep their order.

    No user has more than `max_rows` of the rows that stay, nor more than `max_share` of them. The limit per user is the
    largest that equals this share of what it leaves: cutting rows lowers what the share allows, so it is lowered until
    it holds. A limit of 1 always stays: with fewer than 1 / `max_share` users no larger one holds, nor does the share.
    """
    limit = max_rows
    while True:
        kept, cut = limit_rows(rows, limit)
        allowed = max(1, int(max_share * len(kept)))
        if most_rows(kept) <= allowed:
            return kept, cut
        limit = allowed


def limit_rows(rows: Sequence[FeedbackRow], limit: int) -> tuple[list[FeedbackRow], list[FeedbackRow]]:
    """Split rows into those that stay, the first in order up to `limit` of each of their users, and the others."""
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
    """Rows of the user who has most; 0 without rows."""
    return max(Counter(user for row in rows for user in row.users).values(), default=0)


def largest_share(rows: Sequence[FeedbackRow]) -> float:
    """Share of the rows that the user with most has."""
    return most_rows(rows) / len(rows)
