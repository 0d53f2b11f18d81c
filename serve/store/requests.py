"""The store of requests, responses and feedback, as far as consent allows."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, insert, select, true, tuple_

from rlhf.types import InputError
from serve.store.consent import NO_TEXT, metric_name, without_text
from serve.store.database import Database, pages
from serve.store.people import People
from serve.store.records import Endpoint, Feedback, FeedbackKind, Request, Response
from serve.store.tables import FEEDBACK, REQUESTS, RESPONSES
from serve.text import excerpt

PAGE = 500
"""Requests read at once."""


class UnknownRequest(InputError):
    """Feedback for a request that does not exist or is another user's: the error does not tell which."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests, responses and feedback. One transaction per call.

    Texts of users without consent are dropped here, in the transaction that would have kept them, so that withdrawing
    consent leaves none behind. What was under way when its user was deleted is not kept at all.
    """

    database: Database
    people: People

    def record(self, requests: Sequence[Request]) -> None:
        """Keep requests with their responses, all or none; not of users who were deleted since they asked.

        An existing one stays as it is: it was written before, and the answer to that got lost.
        """
        if not requests:
            return
        with self.people.recording({request.user for request in requests}) as (connection, people):
            rows, answers = [], []
            for request in requests:
                standing = people[request.user]
                if not standing.is_kept(request.at):
                    continue
                has_text = standing.is_text_kept(request.at)
                row = asdict(request)
                del row["responses"]
                rows.append(row if has_text else without_text(row))
                forgotten = {} if has_text else NO_TEXT
                answers += [
                    {**asdict(response), "request_id": request.id, **forgotten} for response in request.responses
                ]
            if rows:
                connection.execute(self.database.insert_unless_there(REQUESTS), rows)
            if answers:
                connection.execute(self.database.insert_unless_there(RESPONSES), answers)

    def add_feedback(self, feedback: Feedback) -> None:
        """Keep what a user said of an answer of their own.

        Raises UnknownRequest if the user has no such request, InputError if there is no such answer or the
        feedback does not say what its kind says.
        """
        check(feedback)
        with self.people.recording({feedback.user}) as (connection, people):
            asked = select(REQUESTS.c.user, REQUESTS.c.shadow_of).where(REQUESTS.c.id == feedback.request_id)
            request = connection.execute(asked).first()
            if request is None or request.user != feedback.user or request.shadow_of is not None:
                name = excerpt(feedback.request_id)
                raise UnknownRequest(f"request_id={name}: this user has no such request; give the `id` of an answer")
            answers = select(RESPONSES.c.index).where(RESPONSES.c.request_id == feedback.request_id)
            indices = sorted(connection.execute(answers).scalars())
            if feedback.choice not in indices:
                raise InputError(
                    f"choice={excerpt(feedback.choice)}: the request has answers {indices}; name one of them"
                )
            if feedback.kind is FeedbackKind.chosen and len(indices) < 2:
                raise InputError(f"kind=chosen: the request has {len(indices)} answer; ask for several with `n`")
            row = asdict(feedback)
            del row["user"]
            if not people[feedback.user].is_text_kept(feedback.at):
                row |= {"text": None, "name": metric_name(feedback.name, self.people.outcomes)}
            connection.execute(insert(FEEDBACK).values(row))

    def dialogues(
        self, *, since: float | None = None, until: float | None = None, variant: str | None = None
    ) -> Iterator[tuple[Request, list[Feedback]]]:
        """Requests that arrived in [`since`, `until`), with their responses and what was said of them, in order of
        time. None: no bound."""
        bounds = [
            *([REQUESTS.c.at >= since] if since is not None else []),
            *([REQUESTS.c.at < until] if until is not None else []),
            *([REQUESTS.c.variant == variant] if variant is not None else []),
        ]
        place = tuple_(REQUESTS.c.at, REQUESTS.c.id)
        page = select(REQUESTS).where(*bounds).order_by(REQUESTS.c.at, REQUESTS.c.id).limit(PAGE)
        with self.database.engine.connect() as connection:
            found = _complete(connection, page)
            while found:
                yield from found
                last = found[-1][0]
                found = _complete(connection, page.where(place > tuple_(last.at, last.id)))

    def dialogue(self, request_id: str) -> tuple[Request, list[Feedback]] | None:
        """A request with its responses and all that was said of them. None: there is none, or not any more."""
        with self.database.engine.connect() as connection:
            found = _complete(connection, select(REQUESTS).where(REQUESTS.c.id == request_id))
            return found[0] if found else None

    def readable(self, request_ids: Collection[str]) -> dict[str, str]:
        """Users of those requests, by id, that are still there with their text."""
        return self._users(request_ids, REQUESTS.c.messages.is_not(None))

    def present(self, request_ids: Collection[str]) -> dict[str, str]:
        """Users of those requests, by id, that are still there, with or without text."""
        return self._users(request_ids, true())

    def _users(self, request_ids: Collection[str], condition: ColumnElement[bool]) -> dict[str, str]:
        found: dict[str, str] = {}
        with self.database.engine.connect() as connection:
            for page in pages(request_ids):
                asked = select(REQUESTS.c.id, REQUESTS.c.user).where(REQUESTS.c.id.in_(page), condition)
                found |= {id: user for id, user in connection.execute(asked)}
        return found


def check(feedback: Feedback) -> None:
    """Raise InputError if the feedback lacks what its kind requires."""
    value = feedback.value
    match feedback.kind:
        case FeedbackKind.thumb if value not in (1, -1):
            raise InputError(f"value={value}: a thumb is 1 (up) or -1 (down)")
        case FeedbackKind.rating if value not in (1, 2, 3, 4, 5):
            raise InputError(f"value={value}: a rating is 1, 2, 3, 4 or 5")
        case FeedbackKind.edit if not (feedback.text or "").strip():
            raise InputError("text: an edit is the answer as it should have been; give its text")
        case FeedbackKind.outcome if not feedback.name:
            raise InputError("name: an outcome has one; give it")
        case FeedbackKind.outcome if value is None or not math.isfinite(value):
            raise InputError(f"value={value}: an outcome has a finite one; give it")
        case _:
            return


def _complete(connection: Connection, requests: Select[Any]) -> list[tuple[Request, list[Feedback]]]:
    rows = [dict(row) for row in connection.execute(requests).mappings()]
    ids = [row["id"] for row in rows]
    users = {row["id"]: row["user"] for row in rows}
    responses: dict[str, list[Response]] = {id: [] for id in ids}
    feedback: dict[str, list[Feedback]] = {id: [] for id in ids}
    answers = select(RESPONSES).where(RESPONSES.c.request_id.in_(ids)).order_by(RESPONSES.c.index)
    for row in connection.execute(answers).mappings():
        fields = dict(row)
        responses[fields.pop("request_id")].append(Response(**fields))
    said = select(FEEDBACK).where(FEEDBACK.c.request_id.in_(ids)).order_by(FEEDBACK.c.at, FEEDBACK.c.id)
    for row in connection.execute(said).mappings():
        feedback[row["request_id"]].append(_feedback({**row, "user": users[row["request_id"]]}))
    return [
        (
            Request(**{**row, "endpoint": Endpoint(row["endpoint"]), "responses": tuple(responses[row["id"]])}),
            feedback[row["id"]],
        )
        for row in rows
    ]


def _feedback(row: Any) -> Feedback:
    return Feedback(**{**row, "kind": FeedbackKind(row["kind"])})
