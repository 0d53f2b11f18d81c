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
"""Finish reason of an answer that its text holds whole. Others were cut at a limit or broken off, or call tools."""
PromptKey = tuple[Endpoint, str, int]
"""A prompt: endpoint and hash of what was asked, and the prompt's number in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackRow:
    """A row of training data and where it comes from."""

    content: dict[str, Any]
    """The columns that the loaders in `rlhf.data` read."""
    source: str
    """`edit`, `chosen`, `votes` or `regeneration`."""
    requests: tuple[Request, ...]
    events: tuple[Feedback, ...]
    users: frozenset[str]
    """Users whose feedback produced this row."""

    @property
    def at(self) -> float:
        """Time of its last event."""
        return max(event.at for event in self.events)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One piece of feedback on one answer."""

    request: Request
    event: Feedback
    answer: str
    is_complete: bool
    """True if the answer ended by itself."""

    @property
    def prompt_key(self) -> PromptKey:
        """Equal for equal prompts. A chat and a completion of the same words are different ones to the model."""
        number = prompt_number(self.request, self.event.choice)
        return self.request.endpoint, self.request.prompt_hash, number

    @property
    def order(self) -> tuple[float, str]:
        return self.event.at, self.event.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to a prompt, judged by the majority of who voted on it, each user once."""

    good: bool
    votes: tuple[Opinion, ...]
    """Votes of the majority, in order of time."""


Refuse = Callable[[str, Iterable[Opinion]], None]
"""Takes a reason and what is left out for it."""


def read_opinions(request: Request, events: Sequence[Feedback]) -> Iterator[Opinion]:
    responses = {response.index: response for response in request.responses}
    for event in events:
        response = responses[event.choice]
        is_complete = response.finish_reason == ENDED
        yield Opinion(request=request, event=event, answer=response.text or "", is_complete=is_complete)


def prompt_number(request: Request, choice: int) -> int:
    """Return the index of the prompt that the response answers: a completion may have several, `n` answers each."""
    return 0 if request.endpoint is Endpoint.chat else choice // int(request.sampling.get("n", 1))


def prompt_of(request: Request, choice: int) -> dict[str, Any]:
    """The columns that say what the response answers: messages, or the text that a completion goes on from."""
    messages = [dict(message) for message in request.messages or ()]
    if request.endpoint is Endpoint.chat:
        return {"prompt": messages}
    return {"prompt": messages[prompt_number(request, choice)]["content"], TEMPLATED: False}


def pairs(
    opinions: Sequence[Opinion], requests: Sequence[Request], refuse: Refuse, *, regenerations: bool
) -> list[FeedbackRow]:
    """Better and worse answers to the same prompt."""
    votes = last_votes(opinions, refuse, good_rating=GOOD_RATING)
    found = [*preferences(opinions, refuse), *(voted_pairs(majority_answers(votes, refuse), refuse))]
    return [*found, *regenerated_pairs(votes, requests)] if regenerations else found


def labelled(opinions: Sequence[Opinion], refuse: Refuse) -> list[FeedbackRow]:
    """Answers that are desirable or not, as KTO learns them."""
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
    """Return demonstrations: answers as users edited them, and those rated best."""
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
    """Pairs that one user made: by an edit, or by choosing one of several answers."""
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
    """Answers by the majority of their users' votes. A good one that is cut short is no answer to learn."""
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
    """Good answers to a prompt with bad ones to the same, each as often as it takes for all to have a partner: of m
    good and n bad ones max(m, n) pairs, not m * n, so that a prompt many asked does not outweigh the others."""
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
    """A regenerated answer that its user voted up, with the one before it, unless that was voted up too.

    Regenerating alone says nothing of the new answer, so it makes no pair.
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
