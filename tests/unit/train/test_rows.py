"""Rows that changed between a run and its continuation."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhf.train.artifact import committing
from rlhf.train.offline import Corpus
from rlhf.train.rows import ROWS, check_rows, digest_of_corpus, digest_of_prompts
from rlhf.train.run_folder import RunFolder, check_more_steps, is_finished
from rlhf.types import InputError, Prompt, TrainingRow

PROMPT = Prompt(id="rows-1", messages=[], token_ids=(1, 2), source="/a/rows.jsonl:1", meta={"answer": "3"})
ROW = TrainingRow(token_ids=np.array([1, 2, 3], np.int32), loss_mask=np.array([False, True, True]), score=0.0,
                  source="/a/rows.jsonl:1", prompt_id="p")  # fmt: skip


def corpus(*rows: TrainingRow) -> Corpus:
    return Corpus(units=[(row,) for row in rows])


def test_a_digest_tells_what_is_learnt_from_and_no_more():
    assert digest_of_prompts([PROMPT]) == digest_of_prompts([replace(PROMPT, source="/b/rows.jsonl:1")])
    assert digest_of_corpus(corpus(ROW)) == digest_of_corpus(corpus(replace(ROW, source="/b:1")))
    for other in (replace(PROMPT, token_ids=(1, 3)), replace(PROMPT, meta={"answer": "4"}), replace(PROMPT, id="x-1")):
        assert digest_of_prompts([other])["sha256"] != digest_of_prompts([PROMPT])["sha256"]
    second = replace(ROW, token_ids=np.array([1, 2, 4], np.int32))
    for rows in (
        [second],
        [replace(ROW, loss_mask=np.array([False, False, True]))],
        [replace(ROW, score=1.0)],
        [replace(ROW, columns={"token_types": np.ones(3, np.float32)})],
        [ROW, ROW],
    ):
        assert digest_of_corpus(corpus(*rows))["sha256"] != digest_of_corpus(corpus(ROW))["sha256"]
    assert digest_of_corpus(corpus(ROW, second)) != digest_of_corpus(corpus(second, ROW))
    assert digest_of_corpus(Corpus(units=[(ROW, second)])) != digest_of_corpus(corpus(ROW, second))


def committed(folder: Path, step: int, num_steps: int | None = None, rows: object = None) -> None:
    config = {"train": {"num_steps": num_steps}}
    with committing(folder, {"step": step, "config": config, ROWS: rows}):
        pass


@pytest.mark.parametrize("place", ["checkpoint", "model"])
def test_other_rows_are_refused(tmp_path, place):
    folder = RunFolder(tmp_path)
    before = {"train": digest_of_corpus(corpus(ROW)), "held_out": digest_of_corpus(corpus(ROW))}
    keys = {"train": "data.path"}
    check_rows(folder, {}, keys)  # nothing was saved, so the run begins again
    made = folder.checkpoint(2) if place == "checkpoint" else folder.model
    committed(made, 2, rows=before)
    check_rows(folder, before, keys)
    sentence = (
        f"output={tmp_path}: data.path gives other rows than {made.name} was made with (1 rows then, 2 now); restore "
        "them to continue, or set another output for a run on the new rows"
    )
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        check_rows(folder, {**before, "train": digest_of_corpus(corpus(ROW, ROW))}, keys)
    with pytest.raises(InputError, match=r"data\.path gives other rows .* \(1 rows then, 1 now, other tokens\)"):
        check_rows(folder, {**before, "train": digest_of_corpus(corpus(replace(ROW, score=2.0)))}, keys)
    with pytest.raises(InputError, match=r"the held-out set held_out gives other rows .* \(1 rows then, none now\)"):
        check_rows(folder, {"train": before["train"]}, keys)


def test_a_finished_run_goes_on_from_its_checkpoint(tmp_path):
    folder = RunFolder(tmp_path)
    committed(folder.model, 4)
    assert is_finished(folder, 4)
    assert not is_finished(folder, 6)
    check_more_steps(folder, 4)
    with pytest.raises(InputError, match=r"its run ended after 4 steps and kept no checkpoint .* cannot continue to 6"):
        check_more_steps(folder, 6)
    committed(folder.checkpoint(4), 4)
    check_more_steps(folder, 6)


def test_a_run_that_reached_its_reward_is_finished(tmp_path):
    committed(RunFolder(tmp_path).model, 3, num_steps=50)
    assert is_finished(RunFolder(tmp_path), 50)
