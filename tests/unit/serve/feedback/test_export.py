"""Feedback becomes rows that trainers load, each traceable, and what is left out is counted."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.data.kto import KTODataConfig
from rlhf.data.preferences import PreferenceDataConfig, RankingDataConfig
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.train.artifact import open_artifact
from rlhf.types import InputError
from serve.feedback.export import ExportConfig, RowKind, export, run, trace
from serve.store.records import Endpoint
from serve.store.store import Store
from tests.unit.serve.samples import asked, said

LIMITLESS = {"max_user_share": 1.0}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@pytest.fixture
def local(sqlite_url) -> Iterator[Store]:
    """Where the database makes no difference."""
    store = Store(sqlite_url, consent_by_default=True)
    yield store
    store.close()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def exported(store: Store, kind: str, folder: Path, **config) -> tuple[list[dict], dict[str, int]]:
    """Rows without their ids, and reasons with their counts."""
    artifact = export(store, RowKind(kind), folder / kind, ExportConfig(**{**LIMITLESS, **config}))
    rejects = lines(artifact.folder / "rejects.jsonl")
    assert Counter(reject["reason"] for reject in rejects) == artifact.manifest["metrics"]["rejects"]
    rows = lines(artifact.folder / "rows.jsonl")
    ids = {"request_ids", "event_ids"}
    return [{key: row[key] for key in row if key not in ids} for row in rows], artifact.manifest["metrics"]["rejects"]


def answered(tokenizer, config, path: Path) -> list[tuple[tuple[str, float], ...]]:
    """Of each unit that a trainer loads from the file, the learnt texts with their scores."""
    units = config.load(tokenizer, context_tokens=500, quarantine=config.quarantine())
    return [
        tuple((tokenizer.decode(row.token_ids[row.loss_mask], skip_special_tokens=True).strip(), row.score)
              for row in unit)
        for unit in units
    ]  # fmt: skip


def user_message(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def vote(store: Store, prompt: str, answer: str, user: str, value: float, at: float = 10.0, kind: str = "thumb"):
    request = asked(prompt, answer, user=user, at=at)
    store.requests.record([request])
    store.requests.add_feedback(said(request, kind, value))
    return request


def test_rows_of_each_kind_are_loaded_as_they_were_said(local, tmp_path, tokenizer):
    talk = [{"role": "system", "content": "简短。"}, *user_message("你好"), {"role": "assistant", "content": "好。"},
            *user_message("几点了？")]  # fmt: skip
    several = asked("time", "三点。", "四点。", "三点。", messages=talk)
    local.requests.record([several])
    local.requests.add_feedback(said(several, "chosen", choice=1))
    local.requests.add_feedback(said(several, "edit", choice=1, text="四点一刻。", at=12.0))
    vote(local, "天气？", "晴。", "ann", 1, 20.0)
    vote(local, "天气？", "不知道", "bob", 2, 21.0, kind="rating")
    vote(local, "天气？", "多云。", "eve", 4, 22.0, kind="rating")
    weather = user_message("天气？")

    pairs, _ = exported(local, "pairs", tmp_path)
    assert pairs == [
        {"prompt": talk, "chosen": "四点。", "rejected": "三点。", "source": "chosen"},
        {"prompt": talk, "chosen": "四点一刻。", "rejected": "四点。", "source": "edit"},
        {"prompt": weather, "chosen": "晴。", "rejected": "不知道", "source": "votes"},
        {"prompt": weather, "chosen": "多云。", "rejected": "不知道", "source": "votes"},
    ]
    path = tmp_path / "pairs/rows.jsonl"
    assert "四点一刻。" in path.read_text(encoding="utf-8")
    loaded = [((row["chosen"], 0.0), (row["rejected"], 0.0)) for row in pairs]
    assert answered(tokenizer, PreferenceDataConfig(path=str(path)), path) == loaded
    assert len(answered(tokenizer, RankingDataConfig(path=str(path)), path)) == 4

    labelled, _ = exported(local, "labelled", tmp_path)
    assert labelled == [
        {"prompt": weather, "completion": "晴。", "label": True, "source": "votes"},
        {"prompt": weather, "completion": "不知道", "label": False, "source": "votes"},
        {"prompt": weather, "completion": "多云。", "label": True, "source": "votes"},
    ]
    path = tmp_path / "labelled/rows.jsonl"
    loaded = [((row["completion"], float(row["label"])),) for row in labelled]
    assert answered(tokenizer, KTODataConfig(path=str(path)), path) == loaded

    imitable, rejects = exported(local, "sft", tmp_path)
    assert imitable == [
        {"prompt": talk, "response": "四点一刻。", "source": "edit"},
        {"prompt": weather, "response": "晴。", "source": "votes"},
    ]
    assert rejects == {"bad": 1, "neutral": 1}
    path = tmp_path / "sft/rows.jsonl"
    loaded = [((row["response"], 0.0),) for row in imitable]
    assert answered(tokenizer, SupervisedDataConfig(path=str(path)), path) == loaded


def test_a_row_is_traced_to_its_events(store, tmp_path):
    for user in ("ann", "bob"):
        store.people.set_consent(user, True, 1.0)
    good, bad = asked("q", "yes"), asked("q", "no", user="bob", at=20.0, variant="old", version="v1")
    store.requests.record([good, bad])
    up, down = said(good, "rating", 5), said(bad, "thumb", -1)
    for feedback in (up, down, said(bad, "outcome", 3, name="bought")):
        store.requests.add_feedback(feedback)
    folder = tmp_path / "pairs"
    artifact = export(store, RowKind.pairs, folder, ExportConfig())
    assert lines(folder / "rows.jsonl") == [
        {"prompt": user_message("q"), "chosen": "yes", "rejected": "no", "source": "votes",
         "request_ids": [good.id, bad.id], "event_ids": [up.id, down.id]}
    ]  # fmt: skip
    assert trace(store.requests, folder, 0) == [(good, [up]), (bad, [down])]
    assert [(one["variant"], one["version"]) for one in artifact.manifest["parents"]] == [("new", "v2"), ("old", "v1")]
    assert artifact.manifest["time_range"] == [11.0, 21.0]
    assert artifact.manifest["kind"] == "feedback"
    with pytest.raises(InputError, match="rows 0 to 0, no row 1"):
        trace(store.requests, folder, 1)
    store.people.delete("bob")
    assert trace(store.requests, folder, 0) == [(good, [up])]


def test_what_is_left_out_is_counted_by_reason(local, tmp_path):
    local.people.set_consent("mute", False, 1.0)
    vote(local, "q", "good", "ann", 1)
    vote(local, "q", "bad", "bob", -1)
    local.requests.record([asked("q", "x", shadow_of="y"), asked(status=500, responses=(), first_token_s=None)])
    vote(local, "q", "good", "mute", 1)
    vote(local, "q", "good", "ann", -1, 5.0)  # taken back later, in another request
    vote(local, "q", "good", "eve", -1)
    vote(local, "q", "good", "dan", 1)  # outvotes eve
    vote(local, "q", "so-so", "ann", 3, kind="rating")
    vote(local, "q", "torn", "ann", 1)
    vote(local, "q", "torn", "bob", -1)
    vote(local, "alone", "good", "ann", 1)
    for text in ("good", " good\n", "better", "best"):
        edited = asked("e", "good", user="ann", at=30.0)
        local.requests.record([edited])
        local.requests.add_feedback(said(edited, "edit", text=text))
    local.requests.add_feedback(said(edited, "edit", text="best of all", at=40.0))
    again = asked("e", "good", user="bob", at=50.0)
    blank = asked("e", " ", user="bob", at=51.0)
    prefilled = asked("p", "good", messages=[*user_message("e"), {"role": "assistant", "content": "Well"}], at=52.0)
    local.requests.record([again, blank, prefilled])
    local.requests.add_feedback(said(again, "edit", text="better"))
    local.requests.add_feedback(said(blank, "edit", text="better"))
    local.requests.add_feedback(said(prefilled, "edit", text="better"))
    rows, rejects = exported(local, "pairs", tmp_path)
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ("good", "bad"), ("better", "good"), ("best of all", "good")
    ]  # fmt: skip
    assert rejects == {
        "contradiction": 1, "disputed": 2, "duplicate": 1, "empty": 1, "failed": 1, "malformed": 1, "neutral": 1,
        "no_consent": 1, "outvoted": 1, "shadow": 1, "superseded": 1, "unchanged": 2, "unpaired": 1,
    }  # fmt: skip


def test_of_one_users_opposite_choices_the_last_counts(local, tmp_path):
    for at, choice in ((10.0, 0), (20.0, 1), (30.0, 1)):
        request = asked("q", "a", "b", at=at)
        local.requests.record([request])
        local.requests.add_feedback(said(request, "chosen", choice=choice))
    rows, rejects = exported(local, "pairs", tmp_path)
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("b", "a")]
    assert rejects == {"contradiction": 1, "duplicate": 1}


def test_a_popular_prompt_makes_no_more_pairs_than_answers(local, tmp_path):
    for n in range(5):
        vote(local, "q", f"good {n}", f"user {n}", 1)
    for n in range(3):
        vote(local, "q", f"bad {n}", f"user {n}", -1)
    rows, rejects = exported(local, "pairs", tmp_path)
    assert sorted(row["chosen"] for row in rows) == [f"good {n}" for n in range(5)]
    assert {row["rejected"] for row in rows} == {f"bad {n}" for n in range(3)}
    assert rejects == {}


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, {"flooder": 60, **{f"user {n}": 1 for n in range(40)}}),
        ({"max_per_user": 7}, {"flooder": 7, **{f"user {n}": 1 for n in range(40)}}),
        ({"max_user_share": 0.2}, {"flooder": 10, **{f"user {n}": 1 for n in range(40)}}),
    ],
)
def test_a_flood_is_cut_to_its_first_rows(local, tmp_path, config, kept):
    requests = [asked(f"q{n}", "a", user="flooder", at=100.0 + n) for n in range(60)]
    requests += [asked(f"q{n}", "b", user=f"user {n}", at=200.0 + n) for n in range(40)]
    local.requests.record(requests)
    for request in requests:
        local.requests.add_feedback(said(request, "thumb", 1))
    rows, rejects = exported(local, "labelled", tmp_path, **config)
    users = {(request.messages[0]["content"], request.responses[0].text): request.user for request in requests}
    owners = [users[row["prompt"][0]["content"], row["completion"]] for row in rows]
    assert Counter(owners) == kept
    assert [row["prompt"][0]["content"] for row in rows[: kept["flooder"]]] == [f"q{n}" for n in range(kept["flooder"])]
    assert rejects == ({"flood": 60 - kept["flooder"]} if config else {})


def test_what_was_cut_short_is_no_answer_to_learn(local, tmp_path):
    def cut(answer: str, **fields):
        request = asked("q", answer, **fields)
        short = [dataclasses.replace(each, finish_reason="length") for each in request.responses]
        return dataclasses.replace(request, responses=tuple(short))

    def say(request, kind, value=None, **fields):
        local.requests.record([request])
        local.requests.add_feedback(said(request, kind, value, **fields))

    say(cut("liked and cut", user="ann"), "rating", 5)
    say(cut("bad and cut", user="bob"), "thumb", -1)
    say(asked("q", "good", user="eve"), "rating", 5)
    say(cut("corrected", user="dan"), "edit", text="correct", at=5.0)
    several = asked("q2", "short", "long", user="kim")
    whole, short = several.responses
    several = dataclasses.replace(several, responses=(whole, dataclasses.replace(short, finish_reason="abort")))
    say(several, "chosen", choice=1)
    rows, rejects = exported(local, "pairs", tmp_path, regenerations=True)
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("correct", "corrected"), ("good", "bad and cut")]
    assert rejects == {"truncated": 2}
    rows, rejects = exported(local, "labelled", tmp_path)
    assert [(row["completion"], row["label"]) for row in rows] == [("bad and cut", False), ("good", True)]
    assert rejects == {"truncated": 1}
    rows, rejects = exported(local, "sft", tmp_path)
    assert [row["response"] for row in rows] == ["correct", "good"]
    assert rejects == {"bad": 1, "truncated": 1}


def test_an_answer_that_also_ended_by_itself_is_whole(local, tmp_path):
    request = vote(local, "q", "good", "ann", 5, kind="rating")
    cut = dataclasses.replace(request.responses[0], finish_reason="length")
    again = dataclasses.replace(request, id="again", user="bob", responses=(cut,))
    local.requests.record([again])
    local.requests.add_feedback(said(again, "rating", 5, at=5.0))
    rows, _ = exported(local, "sft", tmp_path)
    assert [row["response"] for row in rows] == ["good"]


def test_completions_keep_their_form_and_are_learnt_without_a_template(local, tmp_path, tokenizer):
    form = {"endpoint": Endpoint.completion}
    two = [*user_message("ab"), *user_message("cd")]
    request = asked("two", "1", "2", "3", "4", messages=two, sampling={"n": 2}, at=10.0, **form)
    local.requests.record([request])
    local.requests.add_feedback(said(request, "chosen", choice=3))
    good, bad = (asked("x", answer, user=answer, at=20.0, **form) for answer in ("y", "z"))
    local.requests.record([good, bad])
    local.requests.add_feedback(said(good, "thumb", 1))
    local.requests.add_feedback(said(bad, "thumb", -1))
    vote(local, "x", "of a chat", "eve", -1)  # the same words, and another prompt
    rows, rejects = exported(local, "pairs", tmp_path)
    assert rows == [
        {"prompt": "cd", "templated": False, "chosen": "4", "rejected": "3", "source": "chosen"},
        {"prompt": "x", "templated": False, "chosen": "y", "rejected": "z", "source": "votes"},
    ]
    assert rejects == {"unpaired": 1}
    path = tmp_path / "pairs/rows.jsonl"
    units = [
        config.load(tokenizer, context_tokens=500, quarantine=config.quarantine())
        for config in (PreferenceDataConfig(path=str(path)), RankingDataConfig(path=str(path)))
    ]
    for loaded in units:
        texts = [[tokenizer.decode(row.token_ids) for row in unit] for unit in loaded]
        assert texts == [["cd4<|im_end|>", "cd3<|im_end|>"], ["xy<|im_end|>", "xz<|im_end|>"]]
    assert [row.loss_mask.tolist() for row in units[0][0]] == [[False, False, True, True]] * 2

    rows, _ = exported(local, "labelled", tmp_path)
    assert [row["prompt"] for row in rows] == [user_message("x"), "x", "x"]
    path = tmp_path / "labelled/rows.jsonl"
    config = KTODataConfig(path=str(path))
    texts = [
        tokenizer.decode(row.token_ids)
        for (row,) in config.load(tokenizer, context_tokens=500, quarantine=config.quarantine())
    ]
    chat = "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\nof a chat<|im_end|>\n"
    assert texts == [chat, "xy<|im_end|>", "xz<|im_end|>"]


def test_a_regenerated_answer_needs_a_vote(local, tmp_path):
    first, second, third = (asked("q", answer, at=at) for answer, at in (("a", 10.0), ("b", 20.0), ("c", 30.0)))
    local.requests.record([first, second, third])
    local.requests.add_feedback(said(second, "thumb", 1))
    with pytest.raises(InputError, match=r"no rows of kind pairs are left \(unpaired 1\)"):
        exported(local, "pairs", tmp_path)
    rows, _ = exported(local, "pairs", tmp_path, regenerations=True)
    assert rows == [{"prompt": user_message("q"), "chosen": "b", "rejected": "a", "source": "regeneration"}]
    assert lines(tmp_path / "pairs/rows.jsonl")[0]["request_ids"] == [first.id, second.id]


def test_an_export_is_of_its_time_and_variant_and_always_the_same(local, tmp_path):
    for n in range(6):
        request = asked(f"q{n}", "a", user=f"user {n % 2}", at=float(n), variant="xy"[n % 2], version="v")
        local.requests.record([request])
        local.requests.add_feedback(said(request, "thumb", 1, at=50.0 - n))
    rows, _ = exported(local, "labelled", tmp_path, since=1.0, until=4.0)
    assert [row["prompt"][0]["content"] for row in rows] == ["q3", "q2", "q1"]
    rows, _ = exported(local, "labelled", tmp_path / "of_y", variant="y")
    assert [row["prompt"][0]["content"] for row in rows] == ["q5", "q3", "q1"]
    [parent] = open_artifact(tmp_path / "of_y/labelled").manifest["parents"]
    assert (parent["variant"], parent["version"]) == ("y", "v")
    twice = [export(local, RowKind.sft, tmp_path / name, ExportConfig()).manifest["files"] for name in "ab"]
    assert twice[0] == twice[1]


def test_a_folder_that_exists_is_left_alone(local, tmp_path):
    vote(local, "q", "a", "ann", 1)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="it exists already"):
        export(local, RowKind.labelled, tmp_path, ExportConfig())
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_command_line(local, sqlite_url, tmp_path, capsys):
    vote(local, "几点？", "三点", "ann", 1)

    given = ["labelled", f"url={sqlite_url}", f"output={tmp_path / 'out'}"]
    run([*given, "max_user_share=0.5"])
    assert capsys.readouterr().out == f"{tmp_path}/out/rows.jsonl: 1 rows; left out: nothing\n"
    for arguments, sentence in [
        (given, "it exists already"),
        ([*given, "max_users=3"], "max_users: there is no such key; did you mean max_user_share"),
        ([*given, "max_user_share=0"], "max_user_share=0.0: give more than 0"),
        (["label", *given[1:]], "one of pairs, labelled, sft"),
    ]:
        with pytest.raises(InputError, match=sentence):
            run(arguments)
