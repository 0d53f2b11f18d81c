"""Decisions when one key invents users: equal candidates, and better candidates that the invented users vote against.

`python benchmarks/owner_shares.py` simulates 2,400 users in order of exposure; 400 of them are of one key, and arrive
at once after a quarter of the others. Preferences change over time, and invented users either vote freely or know the
arm.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.progress import track

from serve.releases.owner_shares import OwnerShares
from serve.statistics.sequential import Trial, compare
from serve.store.records import Exposure

ALPHAS = {"alpha_higher": 0.05, "alpha_lower": 0.0125}
OTHERS, INVENTED = 2000, 400
SHARES = (1.0, 0.1, 0.02)


def owners() -> list[str]:
    """Return the owners of the users in order of exposure; every real user has a separate key."""
    persons = [f"person{number}" for number in range(OTHERS)]
    return [*persons[: OTHERS // 4], *["bot"] * INVENTED, *persons[OTHERS // 4 :]]


def admitted(names: list[str], share: float) -> np.ndarray:  # [N] bool
    shares = OwnerShares(share, ["service"])
    return np.array(
        [
            shares.admit(Exposure(experiment="e", user=str(n), variant="", at=n, weights={}, salt="", owner=owner))
            for n, owner in enumerate(names)
        ]
    )


def experiment(random: np.random.Generator, invented: np.ndarray, effect: float, *, against: bool) -> Trial:
    """Draw thumbs; `against`: invented users vote against the candidate, otherwise always up, regardless of the arm."""
    num = len(invented)
    candidate = random.random(num) < 0.5
    taste = 0.45 + 0.15 * np.sin(np.linspace(0, 12, num))
    values = (random.random(num) < taste + effect * candidate).astype(float)
    values[invented] = np.where(candidate[invented], 0.0, 1.0) if against else 1.0
    return Trial(candidate=candidate, probability=np.full(num, 0.5), values=values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000)
    count = parser.parse_args().experiments
    names = owners()
    invented = np.array([name == "bot" for name in names])
    cases = {"equal": (0.0, False), "better by 0.1, invented users against it": (0.1, True)}
    for share in SHARES:
        who = admitted(names, share)
        for row, (case, (effect, against)) in enumerate(cases.items()):
            random = np.random.Generator(np.random.PCG64(row))
            decided = [
                compare(experiment(random, invented, effect, against=against).only(who), **ALPHAS).decided
                for _ in track(range(count), description=case)
            ]
            better, worse = (100 * np.mean(np.array(decided) == sign) for sign in (1, -1))
            print(
                f"share {share:g}, {who[invented].sum()} of {INVENTED} invented users count, candidate {case}: "
                f"called better in {better:.1f} %, worse in {worse:.1f} %"
            )


if __name__ == "__main__":
    main()
