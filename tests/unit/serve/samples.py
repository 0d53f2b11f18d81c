"""Requests and feedback with everything filled in."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import stats

from serve.store.records import Endpoint, Exposure, Feedback, FeedbackKind, Request, Response
from serve.store.release_records import Outcome, Phase, Release, Transition

numbers = itertools.count()


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def false_alarms_are_at_most(alpha: float, num_alarms: int, num_experiments: int) -> bool:
    """Whether so many alarms could come from a probability of alpha; wrongly no in one of 10,000 tests."""
    return bool(stats.binom.sf(num_alarms - 1, num_experiments, alpha) > 1e-4)


def asked(
    prompt: str = "几点了？",
    *answers: str,
    user: str = "ann",
    at: float = 10.0,
    id: str | None = None,
    messages: Sequence[dict] | None = None,
    **fields,
) -> Request:
    """A chat of one turn; without answers it has one, "三点。"."""
    return Request(
        **{
            "id": id or f"request-{next(numbers):06d}",
            "user": user,
            "at": at,
            "endpoint": Endpoint.chat,
            "variant": "new",
            "version": "v2",
            "conversation": f"of-{user}",
            "turn": 1,
            "prompt_hash": f"hash of {prompt}",
            "messages": messages or [{"role": "user", "content": prompt}],
            "sampling": {"temperature": 0.5},
            "status": 200,
            "prompt_tokens": 7,
            "latency_s": 0.25,
            "first_token_s": 0.125,
            "responses": tuple(
                Response(index=index, text=text, finish_reason="stop", num_tokens=3)
                for index, text in enumerate(answers or ["三点。"])
            ),
            **fields,
        }
    )


def said(request: Request, kind: str, value: float | None = None, **fields) -> Feedback:
    """A second after the request, unless `at` says otherwise."""
    return Feedback(
        **{
            "id": f"event-{next(numbers):04}",
            "request_id": request.id,
            "user": request.user,
            "at": request.at + 1,
            "kind": FeedbackKind(kind),
            "value": value,
            **fields,
        }
    )


def exposed(user: str, variant: str, at: float, experiment: str = "r1/canary-1", owner: str = "") -> Exposure:
    weights = {"old": 0.99, "new": 0.01}
    return Exposure(experiment=experiment, user=user, variant=variant, at=at, weights=weights, salt="salt", owner=owner)


def released(**changes) -> Release:
    """A release of `new`, in its shadow step unless told otherwise."""
    return Release(
        **{
            "id": "r1",
            "candidate": "new",
            "predecessor": "old",
            "plan": (0.0, 0.01),
            "phase": Phase.shadow,
            "step": 0,
            "salt": "salt",
            "started": 1.0,
            "since": 1.0,
            "reason": "更好",
            **changes,
        }
    )


def moved(to: str, **changes) -> Transition:
    """A transition of release `r1`."""
    return Transition(
        **{
            "release": "r1",
            "at": 2.0,
            "by": "controller",
            "before": "shadow",
            "after": to,
            "outcome": Outcome.promote,
            "reason": "更好",
            "evidence": {"p": 0.01, "步": [1, None]},
            **changes,
        }
    )
