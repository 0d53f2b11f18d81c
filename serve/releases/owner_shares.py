"""Owner limits, so that no owner of keys decides alone about a candidate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from serve.store.records import Exposure


class OwnerShares:
    """Rule that leaves out users beyond their owner's share, in order of exposure.

    An owner's users count up to `share` of these and all other owners' users so far, and at least one per owner counts.
    This depends only on earlier exposures and the user's owner, not on the arm, which is drawn afterwards, nor on any
    user's behaviour, so sequential tests that bet on each user stay valid.
    """

    def __init__(self, share: float, services: Collection[str]) -> None:
        """`services`: owners whose users always count, like users without an owner."""
        self.share, self.services = share, frozenset(services)
        self.users: Counter[str] = Counter()
        """Users so far by owner; the empty name is for users without an owner."""
        self.counted: Counter[str] = Counter()
        """Users who count by owner."""
        self.num_users = 0
        self.leader = ""
        """Owner of the most users."""
        self.outside: set[str] = set()
        """Users who do not count."""

    def admit(self, exposure: Exposure) -> bool:
        """Add the next user; return whether the user counts."""
        owner = exposure.owner
        self.users[owner] += 1
        self.num_users += 1
        if self.users[owner] > self.users[self.leader]:
            self.leader = owner
        mine, others = self.counted[owner] + 1, self.num_users - self.users[owner]
        if self.is_limited(owner) and mine > 1 and mine * (1 - self.share) > others * self.share:
            self.outside.add(exposure.user)
            return False
        self.counted[owner] += 1
        return True

    def is_limited(self, owner: str) -> bool:
        """Return whether an owner's share is limited. If no services are named, an owner of more than half of the users
        counts as a service; without such an owner, shares apply once 1 / share owners take part."""
        if not owner or owner in self.services:
            return False
        if self.services:
            return True
        if 2 * self.users[self.leader] > self.num_users:
            return owner != self.leader
        return len(self.users) * self.share >= 1

    @property
    def left_out(self) -> dict[str, int]:
        """Return the number of users who do not count, by owner, largest first."""
        missing = self.users - self.counted
        return dict(missing.most_common())

    @property
    def sentence(self) -> str | None:
        """Return a sentence about users who were left out; None if there are none."""
        if not self.left_out:
            return None
        largest, *others = self.left_out.items()
        more = f" and {sum(number for _, number in others)} of {len(others)} other owners" if others else ""
        return (
            f"left out: {largest[1]} users of {largest[0]}{more}, beyond release.max_owner_share={self.share:g} of "
            f"{self.num_users} users (release.services names owners without a limit)"
        )

    @property
    def largest(self) -> dict[str, object] | None:
        """Return the owner with the most users, and their number; None without keys."""
        owned = Counter({owner: number for owner, number in self.users.items() if owner})
        return dict(zip(("owner", "num_users"), owned.most_common(1)[0], strict=True)) if owned else None
