"""Answers to a suite: asked once, kept, continued after a kill."""

import asyncio
import json

import pytest

from rlhf.evaluation.ask import AnswerFile, Request, ask, requests_of
from rlhf.evaluation.forms import Form
from rlhf.evaluation.items import Answer, ChoiceLogprob
from rlhf.evaluation.suite import SuiteConfig, load_suite
from rlhf.types import RunError


class Echo:
    """A model that repeats its prompt, and fails at one item."""

    concurrency = 2

    def __init__(self, fails_at: str = "") -> None:
        self.asked: list[Request] = []
        self.fails_at = fails_at

    async def answer(self, request: Request) -> Answer:
        self.asked.append(request)
        await asyncio.sleep(0)
        if request.item == self.fails_at:
            raise RunError("the server is gone")
        choices = tuple(
            ChoiceLogprob(logprob=-float(len(text)), num_tokens=len(text)) for text in request.continuations
        )
        text = str(request.messages[-1]["content"]) + "\nQ:"
        return Answer(item=request.item, sample=request.sample, text=text, num_tokens=3, choices=choices)


@pytest.fixture
def suite(tmp_path):
    rows = [{"id": f"i{i}", "prompt": f"问{i}", "answer": "a"} for i in range(5)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_suite("s", SuiteConfig(path=str(tmp_path / "t.jsonl"), samples=2, temperature=1.0, stop=["\n"]), None)


def run(suite, model, file) -> tuple[list[Answer], int]:
    steps: list[int] = []
    return asyncio.run(ask(suite, model, file, seed=0, advance=steps.append)), sum(steps)


def test_answers_come_in_the_order_of_the_items_and_are_cut(suite, tmp_path):
    answers, steps = run(suite, Echo(), AnswerFile(tmp_path, "s", {"model": 1}))
    assert [(each.item, each.sample) for each in answers] == [(f"i{i}", j) for i in range(5) for j in range(2)]
    assert answers[0].text == "问0"
    assert steps == 10


def test_a_second_run_asks_nothing(suite, tmp_path):
    first, _ = run(suite, Echo(), AnswerFile(tmp_path, "s", {"model": 1}))
    model = Echo()
    again, steps = run(suite, model, AnswerFile(tmp_path, "s", {"model": 1}))
    assert (again, model.asked, steps) == (first, [], 10)


def test_another_model_has_a_file_of_its_own(suite, tmp_path):
    run(suite, Echo(), AnswerFile(tmp_path, "s", {"model": 1}))
    model = Echo()
    run(suite, model, AnswerFile(tmp_path, "s", {"model": 2}))
    assert len(model.asked) == 10


def test_a_failed_run_keeps_its_answers_and_a_torn_line_is_asked_again(suite, tmp_path):
    file = AnswerFile(tmp_path, "s", {"model": 1})
    with pytest.raises(RunError, match="the server is gone"):
        run(suite, Echo(fails_at="i3"), file)
    kept = len(file.answers)
    assert 0 < kept < 10
    with file.path.open("a") as lines:
        lines.write('{"item": "i4", "sam')
    model = Echo()
    answers, _ = run(suite, model, AnswerFile(tmp_path, "s", {"model": 1}))
    assert len(model.asked) == 10 - kept
    assert len(answers) == 10


def test_seeds_follow_from_the_item_and_the_sample(suite):
    requests = list(requests_of(suite, 0))
    assert len({each.seed for each in requests}) == 10
    assert [each.seed for each in requests] == [each.seed for each in requests_of(suite, 0)]
    assert requests[0].seed != next(requests_of(suite, 1)).seed


def test_likelihoods_are_kept_too(tmp_path):
    (tmp_path / "mc.jsonl").write_text(json.dumps({"question": "?", "choices": ["ab", "c"], "answer": 0}))
    config = SuiteConfig(path=str(tmp_path / "mc.jsonl"), layout="listed_choices", form=Form.likelihood)
    suite = load_suite("mc", config, None)
    run(suite, Echo(), AnswerFile(tmp_path, "mc", {}))
    (answer,), _ = run(suite, Echo(), AnswerFile(tmp_path, "mc", {}))
    assert answer.choices == (ChoiceLogprob(logprob=-2.0, num_tokens=2), ChoiceLogprob(logprob=-1.0, num_tokens=1))
