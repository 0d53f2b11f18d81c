"""Whose users count: no owner of keys decides alone about a candidate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from serve.records import Exposure


class OwnerShares:
    """Leaves out users beyond their owner's share, in order of exposure.

    A user counts unless the owner would then have more than `share` of all who count so far; every owner has one. That
    depends on earlier exposures and the user's own owner alone, not on the arm, which is drawn afterwards, nor on what
    anybody does: tests that bet on one user after the other stay valid.
    """

    def __init__(self, share: float, services: Collection[str]) -> None:
        """`services`: owners whose users always count, as those without an owner do."""
        self.share, self.services = share, frozenset(services)
        self.users: Counter[str] = Counter()
        """Users so far by owner; empty: without one."""
        self.counted: Counter[str] = Counter()
        """Users who count by owner."""
        self.num_counted = 0
        self.outside: set[str] = set()
        """Users who do not."""

    def admit(self, exposure: Exposure) -> bool:
        """Whether the next user counts."""
        owner = exposure.owner
        self.users[owner] += 1
        most = max(1.0, self.share * (self.num_counted + 1))
        if owner and owner not in self.services and self.limited and self.counted[owner] + 1 > most:
            self.outside.add(exposure.user)
            return False
        self.counted[owner] += 1
        self.num_counted += 1
        return True

    @property
    def limited(self) -> bool:
        """Whether shares hold: with fewer owners than it takes for one each there is nobody to compare them with."""
        return bool(self.services) or len(self.users) * self.share >= 1

    @property
    def left_out(self) -> dict[str, int]:
        """Users who do not count, by owner, the most first."""
        missing = self.users - self.counted
        return dict(missing.most_common())

    @property
    def sentence(self) -> str | None:
        """Who was left out; None where nobody was."""
        if not self.left_out:
            return None
        largest, *others = self.left_out.items()
        more = f" and {sum(number for _, number in others)} of {len(others)} other owners" if others else ""
        return (
            f"left out: {largest[1]} users of {largest[0]}{more}, beyond release.max_owner_share={self.share:g} of "
            f"{self.users.total()} users (release.services names owners without a limit)"
        )

    @property
    def largest(self) -> dict[str, object] | None:
        """The owner whose keys named most of the users, and how many; None without keys."""
        owned = Counter({owner: number for owner, number in self.users.items() if owner})
        return dict(zip(("owner", "num_users"), owned.most_common(1)[0], strict=True)) if owned else None
