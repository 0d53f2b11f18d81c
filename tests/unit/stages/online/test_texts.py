"""Held-out text of a run, and what is refused before accelerators are held."""

import json
import shlex
from pathlib import Path

import pytest

from rlhf.config import OnlineConfig, as_read, compose
from rlhf.stages.inputs import files_of
from rlhf.stages.online.conclude import how_to_measure
from rlhf.stages.online.results import digests_of
from rlhf.stages.online.texts import say_unmeasured, text_panels
from rlhf.train.artifact import committing
from rlhf.train.rows import ROWS, check_rows
from rlhf.train.run_folder import RunFolder
from rlhf.types import InputError
from tests.unit.stages.online.conftest import CONF

PROSE = "the sum of one and one is two. " * 20


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A document of several rows, one document per line, none, and documents that are not text."""
    written = {
        "prose.txt": PROSE,
        "rows.jsonl": "".join(json.dumps({"text": f"{i} is a number", "body": "a b"}) + "\n" for i in range(5)),
        "none.jsonl": "",
        "empty.txt": "",
        "numbers.jsonl": '{"text": 7}\n',
    }
    for name, text in written.items():
        (tmp_path / f"text-{name}").write_text(text)
    return {name: tmp_path / f"text-{name}" for name in written}


def test_documents_are_cut_to_the_context_and_no_token_is_lost(job, files):
    prepared = job(f"+validation.texts={{prose: {files['prose.txt']}, rows: {files['rows.jsonl']}}}")
    prose, rows = prepared.texts["prose"], prepared.texts["rows"]
    assert max(row.num_tokens for (row,) in prose) <= 64
    assert sum(row.num_tokens for (row,) in prose) == len(prepared.tokenizer(PROSE)["input_ids"]) + 1
    assert all(row.num_loss_tokens == row.num_tokens - 1 for (row,) in [*prose, *rows])
    assert len(rows) == 5
    assert files_of(as_read(prepared.config)).keys() >= {"validation.texts.prose", "validation.texts.rows"}
    assert text_panels(prepared.config)["perplexity of prose"] == "perplexity/prose"


def test_rows_may_be_shorter_and_fewer_and_of_another_field(job, files):
    text = f"+validation.texts.rows={files['rows.jsonl']}"
    shorter = job(text, "validation.text_tokens=3", "validation.text_documents=2", "validation.text_key=body")
    assert [row.num_tokens for (row,) in shorter.texts["rows"]] == [2, 2, 2, 2]


def test_a_text_may_have_the_words_of_training_prompts(job, tmp_path):
    (tmp_path / "same.txt").write_text("0+1=")
    assert job(f"+validation.texts.same={tmp_path / 'same.txt'}").texts["same"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["+validation.texts.x=FOLDER/nowhere.txt"], "validation.texts.x=FOLDER/nowhere.txt: "),
        (["+validation.texts.x=FOLDER/text-none.jsonl"], "text-none.jsonl holds no rows"),
        (["+validation.texts.x=FOLDER/text-empty.txt"], "text-empty.txt:1: the field 'text' is empty"),
        (["+validation.texts.x=FOLDER/text-numbers.jsonl"], "text-numbers.jsonl:1: the field 'text' "),
        (["+validation.texts.x=FOLDER/text-rows.jsonl", "validation.text_key=words"],
         "set text_key to the field that holds the document"),
        (["+validation.texts.x=FOLDER/text-rows.jsonl", "validation.text_tokens=65"],
         "validation.text_tokens=65: give at least 3, and at most sampler.context_tokens=64"),
        (["+validation.texts.x=FOLDER/text-rows.jsonl", "validation.text_tokens=2"], "validation.text_tokens=2: give"),
        (["+validation.texts.x=FOLDER/text-rows.jsonl", "validation.text_documents=0"],
         "validation.text_documents=0: give at least 1, or null for all"),
        (["validation.text_tokens=9"], "validation.text_tokens=9: no text is configured; add one, as in "),
        (["+validation.texts={a/b: FOLDER/text-rows.jsonl}"], "validation.texts.a/b: use letters, digits"),
        (["+validation.texts.reward=FOLDER/text-rows.jsonl", "validation.source_key=of", "validation.fraction=0.5"],
         "two metrics would be called validation/perplexity/reward; rename a text"),
        (["+validation.texts.x=FOLDER/text-rows.jsonl", "validation.fraction=0.5", "validation.every=1",
          "checkpoint.keep_best=validation/perplexity/y"], "it is never measured; known are validation/success"),
        (["+validation.texts.x=FOLDER/text-rows.jsonl", "validation.fraction=0.5", "validation.every=1",
          "checkpoint.keep_best=validation/perplexity/x"],
         "checkpoint.keep_best=validation/perplexity/x, checkpoint.best_is=highest: a lower value is better; set"),
        (["+validation.texts.x=FOLDER/text-rows.jsonl", "validation.every=1"], "validation.every=1: no prompts are"),
    ],
)  # fmt: skip
def test_unusable_texts_and_keys_without_effect_are_refused(job, files, tmp_path, overrides, sentence):
    rows = [{"prompt": f"{i}+1=", "answer": str(i), "of": "perplexity"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError) as caught:
        job(*(word.replace("FOLDER", str(tmp_path)) for word in overrides))
    assert sentence.replace("FOLDER", str(tmp_path)) in str(caught.value)


def test_a_perplexity_may_choose_the_best_model(job, files):
    chosen = job(f"+validation.texts.x={files['rows.jsonl']}", "validation.fraction=0.5", "validation.every=1",
                 "checkpoint.keep_best=validation/perplexity/x", "checkpoint.best_is=lowest")  # fmt: skip
    assert chosen.config.checkpoint.keep_best == "validation/perplexity/x"


def test_a_continued_run_has_the_same_text(job, files, tmp_path):
    text = f"+validation.texts.x={files['rows.jsonl']}"
    folder = RunFolder(tmp_path / "run")
    with committing(folder.checkpoint(3), {ROWS: digests_of(job(text))}) as staging:
        (staging / "weights").write_text("w")
    check_rows(folder, digests_of(job(text)), {"prompts": "data.path"})
    files["rows.jsonl"].write_text('{"text": "another"}\n')
    with pytest.raises(InputError, match=r"validation.texts.x gives other rows than step-000003 .*5 rows then, 1 now"):
        check_rows(folder, digests_of(job(text)), {"prompts": "data.path"})


def test_commands_with_engines_alone_say_that_they_leave_texts_out(job, files, capsys):
    config = job(f"+validation.texts.x={files['rows.jsonl']}", "validation.text_tokens=9").config
    say_unmeasured(config)
    assert "validation.texts (x): not measured here" in capsys.readouterr().out
    _, _, *words = shlex.split(how_to_measure(config, Path(config.model), is_dated=False))
    assert not any("validation.text" in word for word in words)
    say_unmeasured(compose(CONF, "online", [*words, "sampler.context_tokens=64"], OnlineConfig))
    assert not capsys.readouterr().out
