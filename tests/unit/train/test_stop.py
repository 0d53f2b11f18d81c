"""A stop ends a wait at once, keeps what was complete, and never what was half done."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlhf.algorithms.grpo import GRPOConfig
from rlhf.train.artifact import FileRecords, files_in, open_artifact, record
from rlhf.train.checkpoint import CheckpointConfig, Checkpointer, read_state
from rlhf.train.run_folder import RunFolder
from rlhf.train.stop import Stop, stop_on_signals, until_stopped
from rlhf.train.stream import RolloutStream, StreamConfig
from rlhf.train.verify import SavedModel, Verification
from rlhf.types import Sampling, Stopped
from tests.unit.train.fakes import make_report
from tests.unit.train.test_stream import ORDER, FakeSource


async def value(result: int) -> int:
    return result


async def test_work_that_ends_first_gives_its_result():
    assert await Stop().before(value(3)) == 3


async def test_a_stop_cancels_the_wait():
    stop, cancelled = Stop(), []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    asyncio.get_running_loop().call_soon(stop.ask, signal.SIGINT)
    with pytest.raises(Stopped) as caught:
        await stop.before(long())
    assert (cancelled, caught.value.exit_code) == ([True], 130)
    with pytest.raises(Stopped):
        await stop.before(value(3))


async def test_an_error_of_the_work_is_raised():
    async def broken() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await Stop().before(broken())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_stops(number, code):
    told: list[str] = []

    async def work(stop: Stop) -> None:
        os.kill(os.getpid(), number)
        await stop.before(asyncio.sleep(60))

    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught:
        asyncio.run(until_stopped(work, told.append))
    assert caught.value.exit_code == code
    assert len(told) == 1
    assert signal.getsignal(number) is before


def test_a_second_interrupt_quits_at_once_and_a_second_sigterm_does_not():
    done: list[str] = []

    async def work() -> None:
        with stop_on_signals(Stop(), lambda sentence: None):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("two of SIGTERM")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("never")

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
    assert done == ["two of SIGTERM"]


class Weights:
    """A role that is saved as one file."""

    async def save(self, folder: Path) -> FileRecords:
        folder.mkdir(parents=True)
        (folder / "rank").write_text("state")
        return record(files_in(folder))

    async def save_pretrained(self, folder: Path, probe: Sequence[int] | None) -> SavedModel:
        (folder / "weights").write_text("weights")
        verified = None if probe is None else Verification(tokens=len(probe), mean_difference=0.0, max_difference=0.0)
        return SavedModel(verification=verified, records=record(files_in(folder)))


async def test_what_is_saved_is_the_last_step_and_not_the_one_half_sampled(tmp_path):
    algorithm = GRPOConfig(group_size=2).build(Sampling(temperature=1.0, max_tokens=3))
    # The last two prompts of the second step never end.
    source = FakeSource(turns=lambda position: 10**9 if position >= 6 else 0)
    stream = RolloutStream(ORDER, source, algorithm, StreamConfig(prompts_per_step=4))
    folder = RunFolder(tmp_path)
    checkpointer = Checkpointer(
        config=CheckpointConfig(every=None), folder=folder, learners={"policy": Weights()}, algorithm=algorithm,
        stream=stream, write_tokenizer=lambda folder: None, manifest={}, probe=[3, 4, 5],
    )  # fmt: skip
    stop = Stop()
    stream.admit(0)
    await stop.before(stream.groups())
    await checkpointer.save_unsaved()
    assert folder.checkpoints() == [], "no step was complete"

    stream.admit(1)
    expected = stream.state()
    await checkpointer.on_step(make_report(0))
    asyncio.get_running_loop().call_later(0.05, stop.ask, signal.SIGTERM)
    with pytest.raises(Stopped):
        await stop.before(stream.groups())
    await stream.close()
    await checkpointer.save_unsaved()
    (saved,) = folder.checkpoints()
    assert read_state(saved) == {"next_step": 1, "stream": expected, "algorithm": {"kl_coef": 0.0}}
    assert expected["in_flight"] == [4, 5, 6, 7]
    verified = open_artifact(saved).manifest["verified"]
    assert verified == {"tokens": 3, "mean_difference": 0.0, "max_difference": 0.0}

    await checkpointer.save_unsaved()
    assert folder.checkpoints() == [saved], "what is saved is not saved again"
