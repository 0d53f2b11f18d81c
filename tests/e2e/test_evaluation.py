"""Suites on a real engine, against transformers on the same texts."""

import json
from pathlib import Path

import pytest
import torch

from rlhf.config import compose
from rlhf.evaluation_config import EvaluationConfig

CONF = Path(__file__).parents[2] / "conf"
NUM_TOKENS = 6


@pytest.fixture(scope="module")
def evaluated(cluster: None, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The answers' folder of one evaluation: greedy texts and likelihoods, in the chat template and without."""
    from rlhf.stages.evaluation.run import run

    folder = tmp_path_factory.mktemp("evaluation")
    sums = [{"id": i, "prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(4)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    choices = [{"id": i, "question": f"{i}+{i}=", "choices": [str(2 * i), "77", "3+4"], "answer": 0} for i in range(4)]
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    (folder / "texts.jsonl").write_text(json.dumps({"id": 0, "text": "12+34=46"}))
    generate = f"path: {folder / 'sums.jsonl'}, max_tokens: {NUM_TOKENS}, metrics: {{exact_match: {{}}}}"
    choose = f"path: {folder / 'choices.jsonl'}, layout: listed_choices, form: likelihood, metrics: {{acc: {{}}}}"
    read = f"path: {folder / 'texts.jsonl'}, layout: texts, form: likelihood, metrics: {{perplexity: {{}}}}"
    suites = {
        "chat": generate, "plain": f"{generate}, chat: false",
        "choose": choose, "choose_plain": f"{choose}, chat: false", "read": read,
    }  # fmt: skip
    words = [
        f"+suite={{{', '.join(f'{name}: {{{keys}}}' for name, keys in suites.items())}}}",
        f"model={models['tied']}", f"output={folder / 'out'}", f"answers={folder / 'answers'}",
        "backend.precision=fp32", "sampler.context_tokens=64", "sampler.kv_cache_bytes=33554432",
        "sampler.accelerator_memory_fraction=0.1", "sampler.eager=true",
    ]  # fmt: skip
    run(compose(CONF, "evaluate", words, EvaluationConfig))
    return folder / "out" / "report"


@pytest.fixture(scope="module")
def reference(models: dict[str, Path]):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(models["tied"], dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(models["tied"])


def answers(report: Path, suite: str) -> list[dict]:
    return [json.loads(line) for line in (report / "answers" / f"{suite}.jsonl").read_text().splitlines()]


def prompt_ids(tokenizer, question: str, *, chat: bool) -> list[int]:
    if not chat:
        return tokenizer(question)["input_ids"]
    messages = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def logprob(model, ids: list[int], start: int) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].double()
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return float(chosen[start - 1 :].sum())


@pytest.mark.parametrize("chat", [True, False])
def test_likelihoods_equal_those_of_transformers(evaluated: Path, reference, chat: bool) -> None:
    model, tokenizer = reference
    for i, answer in enumerate(answers(evaluated, "choose" if chat else "choose_plain")):
        prompt = prompt_ids(tokenizer, f"{i}+{i}=", chat=chat)
        for text, found in zip([str(2 * i), "77", "3+4"], answer["choices"], strict=True):
            own = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert found["num_tokens"] == len(own)
            assert found["logprob"] == pytest.approx(logprob(model, [*prompt, *own], len(prompt)), abs=1e-4)


def test_a_text_has_a_perplexity(evaluated: Path, reference) -> None:
    model, tokenizer = reference
    ids = tokenizer("12+34=46")["input_ids"]
    ((found,),) = (answer["choices"] for answer in answers(evaluated, "read"))
    assert found["logprob"] == pytest.approx(logprob(model, ids, 1), abs=1e-4)
    figures = json.loads((evaluated / "results.json").read_text())["figures"]
    expected = float(torch.tensor(-found["logprob"] / (len(ids) - 1)).exp())
    assert figures["read/perplexity"]["mean"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("chat", [True, False])
def test_greedy_answers_are_the_likeliest_tokens(evaluated: Path, reference, chat: bool) -> None:
    model, tokenizer = reference
    for i, answer in enumerate(answers(evaluated, "chat" if chat else "plain")):
        ids = prompt_ids(tokenizer, f"{i}+{i}=", chat=chat)
        own = tokenizer(answer["text"], add_special_tokens=False)["input_ids"]
        assert 0 < answer["num_tokens"] <= NUM_TOKENS
        with torch.no_grad():
            for token in own:
                logits = model(torch.tensor([ids])).logits[0, -1]
                # Special tokens other than the end of an answer are never sampled.
                logits[[each for each in tokenizer.all_special_ids if each != tokenizer.eos_token_id]] = -torch.inf
                assert logits[token] >= logits.max() - 1e-4
                ids = [*ids, token]
