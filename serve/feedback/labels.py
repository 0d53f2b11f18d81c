"""Feedback as training rows: preferences, good and bad answers, demonstrations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Any

from rlhf.data.dialogues import TEMPLATED
from serve.store.records import Endpoint, Feedback, FeedbackKind, Request

GOOD_RATING = 4
BEST_RATING = 5
BAD_RATING = 2
ENDED = "stop"
"""Finish reason of an answer whose text is complete. Other answers were truncated or aborted, or call tools."""
PromptKey = tuple[Endpoint, str, int]
"""A prompt: the endpoint and hash of its request, and its index in the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRow:
    """A row of training data and its origin."""

    content: dict[str, Any]
    """The columns that the loaders in `rlhf.data` read."""
    source: str
    """Kind of feedback: `edit`, `chosen`, `votes` or `regeneration`."""
    requests: tuple[Request, ...]
    events: tuple[Feedback, ...]
    users: frozenset[str]
    """Users whose feedback produced this row."""

    @property
    def at(self) -> float:
        """Unix seconds of the row's last event."""
        return max(event.at for event in self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One piece of feedback on one answer."""

    request: Request
    event: Feedback
    answer: str
    is_complete: bool
    """True if the answer is complete, neither truncated nor aborted."""

    @property
    def prompt_key(self) -> PromptKey:
        """Key of the prompt; equal prompts have equal keys. A chat and a completion of the same words differ."""
        number = prompt_number(self.request, self.event.choice)
        return self.request.endpoint, self.request.prompt_hash, number

    @property
    def order(self) -> tuple[float, str]:
        return self.event.at, self.event.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to a prompt, judged by the majority of the users who voted on it."""

    good: bool
    votes: tuple[Opinion, ...]
    """Votes of the majority, in order of time."""


Refuse = Callable[[str, Iterable[Opinion]], None]
"""Handler of rejected feedback, called with the reason and the opinions."""


def read_opinions(request: Request, events: Sequence[Feedback]) -> Iterator[Opinion]:
    responses = {response.index: response for response in request.responses}
    for event in events:
        response = responses[event.choice]
        is_complete = response.finish_reason == ENDED
        yield Opinion(request=request, event=event, answer=response.text or "", is_complete=is_complete)


def prompt_number(request: Request, choice: int) -> int:
    """Return the index of the choice's prompt: a completion may have several prompts, with `n` answers each."""
    return 0 if request.endpoint is Endpoint.chat else choice // int(request.sampling.get("n", 1))


def prompt_of(request: Request, choice: int) -> dict[str, Any]:
    """Return the columns of the prompt: messages, or the text that a completion continues."""
    messages = [dict(message) for message in request.messages or ()]
    if request.endpoint is Endpoint.chat:
        return {"prompt": messages}
    return {"prompt": messages[prompt_number(request, choice)]["content"], TEMPLATED: False}


def pairs(
    opinions: Sequence[Opinion], requests: Sequence[Request], refuse: Refuse, *, regenerations: bool
) -> list[FeedbackRow]:
    """Return pairs of a better and a worse answer to the same prompt."""
    votes = last_votes(opinions, refuse, good_rating=GOOD_RATING)
    found = [*preferences(opinions, refuse), *(voted_pairs(majority_answers(votes, refuse), refuse))]
    return [*found, *regenerated_pairs(votes, requests)] if regenerations else found


def labelled(opinions: Sequence[Opinion], refuse: Refuse) -> list[FeedbackRow]:
    """Return desirable and undesirable answers, for KTO."""
    return [
        _feedback_row(
            {"completion": answer.votes[0].answer, "label": answer.good},
            "votes",
            answer.votes,
            {answer.votes[0].event.user},
        )
        for answer in majority_answers(last_votes(opinions, refuse, good_rating=GOOD_RATING), refuse)
    ]


def demonstrations(opinions: Sequence[Opinion], refuse: Refuse) -> list[FeedbackRow]:
    """Return demonstrations: answers as users edited them, and answers with the best rating."""
    rows = [
        _feedback_row({"response": edit.event.text}, "edit", [edit], {edit.event.user})
        for edit in edits(opinions, refuse)
    ]
    for answer in majority_answers(last_votes(opinions, refuse, good_rating=BEST_RATING), refuse):
        if answer.good:
            first = answer.votes[0]
            rows.append(_feedback_row({"response": first.answer}, "votes", answer.votes, {first.event.user}))
        else:
            refuse("bad", answer.votes)
    return rows


def edits(opinions: Sequence[Opinion], refuse: Refuse) -> list[Opinion]:
    """Return the last edit of each answer, if it changes anything."""
    made: dict[tuple[str, int], list[Opinion]] = defaultdict(list)
    for opinion in sorted(_of_kinds(opinions, FeedbackKind.edit), key=lambda opinion: opinion.order):
        made[opinion.request.id, opinion.event.choice].append(opinion)
    kept = []
    for *earlier, last in made.values():
        refuse("superseded", earlier)
        text = last.event.text or ""
        if not text.strip():
            refuse("empty", [last])
        elif text.strip() == last.answer.strip():
            refuse("unchanged", [last])
        else:
            kept.append(last)
    return kept


def preferences(opinions: Sequence[Opinion], refuse: Refuse) -> Iterator[FeedbackRow]:
    """Yield pairs from a single user: an edit and the original, or the chosen and another of several answers."""
    made = [(edit, edit.event.text or "", edit.answer) for edit in edits(opinions, refuse)]
    for opinion in _of_kinds(opinions, FeedbackKind.chosen):
        if not opinion.is_complete:
            refuse("truncated", [opinion])
            continue
        request, number = opinion.request, prompt_number(opinion.request, opinion.event.choice)
        others = [each.text or "" for each in request.responses if prompt_number(request, each.index) == number]
        worse = [text for text in dict.fromkeys(others) if text != opinion.answer]
        if not worse:
            refuse("same", [opinion])
        made += [(opinion, opinion.answer, text) for text in worse]
    last: dict[tuple[str, PromptKey, frozenset[str]], tuple[Opinion, str, str]] = {}
    for preference in sorted(made, key=lambda preference: preference[0].order):
        opinion, better, worse_one = preference
        key = (opinion.event.user, opinion.prompt_key, frozenset((better, worse_one)))
        if key in last:
            earlier, was_better, _ = last[key]
            refuse("duplicate" if was_better == better else "contradiction", [earlier])
        last[key] = preference
    for opinion, better, worse_one in last.values():
        content = {"chosen": better, "rejected": worse_one}
        yield _feedback_row(content, str(opinion.event.kind), [opinion], {opinion.event.user})


def last_votes(opinions: Sequence[Opinion], refuse: Refuse, *, good_rating: int) -> list[tuple[Opinion, int]]:
    """Return the last thumb or rating of each user on each answer to a prompt, as 1 or -1."""
    cast: dict[tuple[str, PromptKey, str], list[tuple[Opinion, int]]] = defaultdict(list)
    for opinion in sorted(
        _of_kinds(opinions, FeedbackKind.thumb, FeedbackKind.rating), key=lambda opinion: opinion.order
    ):
        key = (opinion.event.user, opinion.prompt_key, opinion.answer)
        cast[key].append((opinion, _sign(opinion.event, good_rating)))
    kept = []
    for *earlier, (last, sign) in cast.values():
        for opinion, before in earlier:
            refuse("duplicate" if before == sign else "contradiction", [opinion])
        if sign:
            kept.append((last, sign))
        else:
            refuse("neutral", [last])
    return kept


def majority_answers(votes: Sequence[tuple[Opinion, int]], refuse: Refuse) -> list[Answer]:
    """Return the answers with the votes of their majority. A good answer that is incomplete is left out."""
    ballots: dict[tuple[PromptKey, str], list[tuple[Opinion, int]]] = defaultdict(list)
    for opinion, sign in sorted(votes, key=lambda vote: vote[0].order):
        ballots[opinion.prompt_key, opinion.answer].append((opinion, sign))
    answers = []
    for ballot in ballots.values():
        balance = sum(sign for _, sign in ballot)
        if not balance:
            refuse("disputed", [opinion for opinion, _ in ballot])
            continue
        good = balance > 0
        refuse("outvoted", [opinion for opinion, sign in ballot if (sign > 0) != good])
        majority = tuple(opinion for opinion, sign in ballot if (sign > 0) == good)
        if good and not any(opinion.is_complete for opinion in majority):
            refuse("truncated", majority)
            continue
        answers.append(Answer(good=good, votes=majority))
    return answers


def voted_pairs(answers: Sequence[Answer], refuse: Refuse) -> Iterator[FeedbackRow]:
    """Pair good with bad answers to the same prompt, repeating answers until each has a partner: m good and n bad ones
    make max(m, n) pairs, not m * n, so that a frequent prompt does not outweigh the others."""
    by_prompt: dict[PromptKey, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_prompt[answer.votes[0].prompt_key].append(answer)
    for judgements in by_prompt.values():
        good, bad = ([answer for answer in judgements if answer.good is side] for side in (True, False))
        if not good or not bad:
            refuse("unpaired", [vote for answer in judgements for vote in answer.votes])
            continue
        for better, worse in islice(zip(cycle(good), cycle(bad), strict=False), max(len(good), len(bad))):
            content = {"chosen": better.votes[0].answer, "rejected": worse.votes[0].answer}
            owners = {better.votes[0].event.user, worse.votes[0].event.user}
            yield _feedback_row(content, "votes", [*better.votes, *worse.votes], owners)


def regenerated_pairs(votes: Sequence[tuple[Opinion, int]], requests: Sequence[Request]) -> Iterator[FeedbackRow]:
    """Pair a regenerated answer that its user voted up with the answer before it, unless that was voted up too.

    Without a vote, regeneration does not show that the new answer is better, so it makes no pair.
    """
    liked = {(vote.event.user, vote.prompt_key, vote.answer): vote for vote, sign in votes if sign > 0}
    asked: dict[tuple[str, PromptKey], list[Request]] = defaultdict(list)
    for request in requests:
        if len(request.responses) == 1:
            asked[request.user, (request.endpoint, request.prompt_hash, 0)].append(request)
    for key, series in asked.items():
        for before, after in pairwise(series):
            rejected, chosen = before.responses[0].text or "", after.responses[0].text or ""
            vote = liked.get((*key, chosen))
            if vote and vote.is_complete and (*key, rejected) not in liked:
                row = _feedback_row({"chosen": chosen, "rejected": rejected}, "regeneration", [vote], {key[0]})
                yield FeedbackRow(
                    content=row.content, source=row.source, requests=(before, after), events=row.events, users=row.users
                )


def _of_kinds(opinions: Iterable[Opinion], *kinds: FeedbackKind) -> list[Opinion]:
    return [opinion for opinion in opinions if opinion.event.kind in kinds]


def _sign(event: Feedback, good_rating: int) -> int:
    value = event.value or 0
    if event.kind is FeedbackKind.thumb:
        return int(value)
    return 1 if value >= good_rating else -1 if value <= BAD_RATING else 0


def _feedback_row(answers: dict[str, Any], source: str, opinions: Sequence[Opinion], users: set[str]) -> FeedbackRow:
    requests = {opinion.request.id: opinion.request for opinion in opinions}
    return FeedbackRow(
        content={**prompt_of(opinions[0].request, opinions[0].event.choice), **answers},
        source=source,
        requests=tuple(requests.values()),
        events=tuple(opinion.event for opinion in opinions),
        users=frozenset(users),
    )
