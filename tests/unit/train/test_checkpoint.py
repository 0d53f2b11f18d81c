"""Saving a run: each rank records what it wrote, and the manifest lists all of it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.algorithms.grpo import GRPOConfig
from rlhf.train.artifact import MANIFEST, FileRecords, files_in, open_artifact, record
from rlhf.train.checkpoint import TRAINER, CheckpointConfig, Checkpointer, committing_together, read_state
from rlhf.train.run_folder import RunFolder
from rlhf.train.verify import SavedModel
from rlhf.types import Sampling
from tests.unit.train.fakes import FakeBackend


class SavedFiles:
    """A role that writes one file of each kind."""

    async def save(self, folder: Path) -> FileRecords:
        folder.mkdir(parents=True)
        (folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"moments")
        return record(files_in(folder))

    async def save_pretrained(self, folder: Path, probe: Sequence[int] | None) -> SavedModel:
        assert files_in(folder) == [], "what is there already would be taken for the model's"
        (folder / "model.safetensors").write_bytes(b"weights")
        return SavedModel(verification=None, records=record(files_in(folder)))


class Stream:
    def state(self) -> dict[str, int]:
        return {"next_prompt": 3}


def checkpointer(root: Path) -> Checkpointer:
    return Checkpointer(
        config=CheckpointConfig(every=1),
        folder=RunFolder(root),
        learners={"policy": SavedFiles(), "critic": SavedFiles()},
        algorithm=GRPOConfig().build(Sampling(temperature=1.0, max_tokens=8)),
        stream=Stream(),  # type: ignore[arg-type]
        write_tokenizer=lambda folder: (folder / "tokenizer.json").write_text("{}") and None,
        manifest={"config": {}},
        probe=[1, 2],
    )


async def test_a_checkpoint_holds_the_model_the_states_and_a_manifest_of_all(tmp_path):
    saver = checkpointer(tmp_path)
    await saver.save_checkpoint({"next_step": 4, "stream": {"next_prompt": 3}, "algorithm": {}})
    artifact = open_artifact(RunFolder(tmp_path).checkpoint(4))
    assert read_state(artifact.folder)["next_step"] == 4
    names = {str(path.relative_to(artifact.folder)) for path in files_in(artifact.folder)} - {MANIFEST}
    assert artifact.manifest["files"].keys() == names
    assert {f"{TRAINER}/critic/zero_pp_rank_0_mp_rank_00_optim_states.pt", "model.safetensors"} <= names


async def test_the_final_models_are_committed_each_by_itself(tmp_path):
    model = await checkpointer(tmp_path).save_final(4, {"success_after": 1.0})
    assert open_artifact(model).manifest["files"].keys() == {"model.safetensors", "tokenizer.json"}
    assert open_artifact(tmp_path / "critic").manifest["kind"] == "critic"


class SecondOfTwo(FakeBackend):
    """The first rank, as it meets a second that wrote a file of its own."""

    def __init__(self, theirs: FileRecords) -> None:
        super().__init__(rank=0, num_ranks=2)
        self.theirs = theirs

    def gather(self, value):
        return [value, None if value is None else self.theirs]


@pytest.mark.parametrize("theirs_known", [True, False])
def test_ranks_that_commit_together_share_their_records(tmp_path, theirs_known):
    target = tmp_path / "step"
    theirs: FileRecords = {}
    records: FileRecords = {}
    with committing_together(SecondOfTwo(theirs), target, {"kind": "checkpoint"}, records) as staging:
        (staging / "theirs").write_bytes(b"2")
        if theirs_known:
            theirs[str(staging / "theirs")] = {"size": 1, "sha256": "of the second rank"}
        (staging / "mine").write_bytes(b"1")
        records |= record([staging / "mine"])
    files = json.loads((target / MANIFEST).read_text())["files"]
    assert files.keys() == {"mine", "theirs"}
    assert (files["theirs"]["sha256"] == "of the second rank") is theirs_known
