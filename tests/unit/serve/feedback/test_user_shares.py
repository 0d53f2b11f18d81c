"""No user has more of the exported rows than a share of those that stay."""

from collections import Counter

import pytest

from serve.feedback.labels import FeedbackRow
from serve.feedback.user_shares import largest_share, within_shares
from tests.unit.serve.samples import generator


def rows_of(*users: str | tuple[str, ...]) -> list[FeedbackRow]:
    return [
        FeedbackRow(
            content={"number": number},
            source="votes",
            requests=(),
            events=(),
            users=frozenset([each] if isinstance(each, str) else each),
        )
        for number, each in enumerate(users)
    ]


def counts(rows: list[FeedbackRow]) -> Counter[str]:
    return Counter(user for row in rows for user in row.users)


def test_the_share_is_of_the_rows_that_stay():
    rows = rows_of(*["flooder"] * 60, *["second"] * 60, *(f"user {n}" for n in range(80)))
    kept, cut = within_shares(rows, max_rows=200, max_share=0.1)
    # Of the 200 rows 10 % are 20; of what those leave, 120, they are 17 %.
    assert counts(kept)["flooder"] == counts(kept)["second"] == 10
    assert len(kept) == 100
    assert largest_share(kept) == 0.1
    assert [row.content["number"] for row in kept[:10]] == list(range(10))
    assert len(cut) == 100


def test_fewer_users_than_the_share_needs_keep_one_row_each():
    kept, cut = within_shares(rows_of(*["a"] * 50, *["b"] * 9, "c"), max_rows=200, max_share=0.1)
    assert counts(kept) == {"a": 1, "b": 1, "c": 1}
    assert largest_share(kept) == pytest.approx(1 / 3)
    assert len(cut) == 57


def test_who_shares_evenly_loses_nothing():
    rows = rows_of(*(f"user {n % 10}" for n in range(70)))
    assert within_shares(rows, max_rows=7, max_share=0.1) == (rows, [])
    assert within_shares([], max_rows=7, max_share=0.1) == ([], [])


@pytest.mark.parametrize("seed", range(20))
def test_the_limit_is_the_largest_that_holds(seed):
    random = generator(seed)
    users = [f"user {n}" for n in random.zipf(1.5, size=400) % 60]
    share, most = [0.03, 0.1, 0.3][seed % 3], [5, 200][seed % 2]
    kept, _ = within_shares(rows_of(*users), max_rows=most, max_share=share)
    limit = max(counts(kept).values())

    def total(limit: int) -> int:
        return sum(min(count, limit) for count in Counter(users).values())

    assert len(kept) == total(limit)
    assert limit == 1 or limit <= min(most, share * len(kept))
    larger = [n for n in range(limit + 1, most + 1) if n <= share * total(n) and n <= max(Counter(users).values())]
    assert larger == []


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_two_users_count_for_both(seed):
    random = generator(seed)
    pairs = [tuple(f"user {n}" for n in random.integers(0, 40, 2) ** 2 // 40) for _ in range(500)]
    kept, cut = within_shares(rows_of(*pairs), max_rows=200, max_share=0.1)
    assert largest_share(kept) <= 0.1
    assert len(kept) + len(cut) == 500
