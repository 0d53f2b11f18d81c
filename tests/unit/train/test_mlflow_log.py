"""MLflow for real, in a folder without a server, read back through its own client."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.train.mlflow_log import mlflow_log, tracking_uri
from rlhf.train.tracking import LogConfig
from rlhf.types import RunError

mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: it is optional")

CONFIG = {"optimizer": {"lr": 0.001}, "reward": {"functions": ["exact"]}, "model": "m" * 7000, "seed": None}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """One database for all tests: making it takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def log(place: Path, tmp_path: Path, monkeypatch) -> LogConfig:
    monkeypatch.chdir(tmp_path)
    return LogConfig(mlflow=str(place), mlflow_experiment="mine")


def row(step: int, reward: float) -> dict[str, Any]:
    return {"step": step, "reward": reward, "reward/f?": float("nan"), "train/kl": 0.5}


def read(log: LogConfig, folder: Path) -> tuple[Any, list[tuple[int, float]]]:
    """Return the run, and its rewards by step."""
    assert log.mlflow is not None
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(log.mlflow))
    run = client.get_run((folder / "mlflow_run_id").read_text())
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    return run, sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "reward"))


def test_a_relative_folder_is_that_of_the_working_directory_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert LogConfig(mlflow="runs").mlflow == str(tmp_path / "runs")
    assert LogConfig(mlflow="http://host:5000").mlflow == "http://host:5000"


def ignore(sentence: str) -> None:
    raise AssertionError(sentence)


def test_figures_and_configuration_are_in_the_folder_and_nowhere_else(tmp_path, log):
    with mlflow_log(tmp_path, log, "outputs/mine", CONFIG, [], ignore) as opened:
        for step in range(3):
            opened.write(row(step, 0.25 * step))
    run, rewards = read(log, tmp_path)
    assert rewards == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert (run.info.run_name, run.info.status) == ("outputs/mine", "FINISHED")
    assert run.data.params == {
        "optimizer.lr": "0.001", "reward.functions": "['exact']", "model": "m" * 6000, "seed": "None"
    }  # fmt: skip
    assert set(run.data.metrics) == {"step", "reward", "reward/f_", "train/kl"}
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow_run_id"]


def test_a_failed_run_that_is_continued_is_one_run_without_repeated_steps(tmp_path, log):
    def run_that_fails() -> None:
        with mlflow_log(tmp_path, log, "mine", CONFIG, [], ignore) as opened:
            for step in range(4):
                opened.write(row(step, float(step)))
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        run_that_fails()
    first, rewards = read(log, tmp_path)
    assert (len(rewards), first.info.status) == (4, "FAILED")

    # Its checkpoint is older than its last step, and another key may change.
    changed = {**CONFIG, "seed": 5, "steps": 9}
    with mlflow_log(tmp_path, log, "mine", changed, [row(0, 0.0), row(1, 1.0)], ignore) as opened:
        for step in range(2, 6):
            opened.write(row(step, float(step)))
    run, rewards = read(log, tmp_path)
    assert rewards == [(step, float(step)) for step in range(6)]
    assert (run.info.run_id, run.info.status) == (first.info.run_id, "FINISHED")
    assert (run.data.params["seed"], run.data.params["steps"]) == ("None", "9")


def test_a_run_that_turns_it_on_later_has_its_earlier_steps_too(tmp_path, log):
    (tmp_path / "mlflow_run_id").write_text("0" * 32)  # of another server
    history = [row(0, 1.0), {**row(1, 2.0), "train/kl": None}]
    with mlflow_log(tmp_path, log, "mine", CONFIG, history, ignore) as opened:
        opened.write(row(2, 3.0))
    assert read(log, tmp_path)[1] == [(0, 1.0), (1, 2.0), (2, 3.0)]


def failing(log_batch: Callable[..., None], times: int) -> Callable[..., None]:
    left = iter(range(times))

    def fail(*arguments: Any, **keywords: Any) -> None:
        if next(left, None) is not None:
            raise mlflow.exceptions.MlflowException("no route")
        log_batch(*arguments, **keywords)

    return fail


@pytest.mark.parametrize(("times", "sent"), [(2, 4), (9, 0)])
def test_steps_that_the_server_does_not_take_follow_later_and_end_no_run(tmp_path, log, times, sent):
    told: list[str] = []
    with mlflow_log(tmp_path, log, "mine", {}, [], told.append) as opened:
        opened.client.log_batch = failing(opened.client.log_batch, times)
        for step in range(4):
            opened.write(row(step, 1.0))
    assert told[0] == "log.mlflow: step 0 was not sent (no route); it follows with a later one"
    assert told[1:] == ([] if sent else ["log.mlflow: 4 steps were not sent; metrics.jsonl has them"])
    assert len(read(log, tmp_path)[1]) == sent


def test_a_server_that_does_not_answer_stops_the_start(tmp_path, log, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log.mlflow = "http://127.0.0.1:9"
    with (
        pytest.raises(RunError, match=r"^log.mlflow=http://127.0.0.1:9: MLflow did not start: .*; correct the address"),
        mlflow_log(tmp_path, log, "mine", {}, [], ignore),
    ):
        pass
