"""Launch of offline training: ranks under Ray Train, which restarts them if one dies."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from rlhf.actors.nodes import ACCELERATOR, cpus_per_accelerator, has_accelerators
from rlhf.actors.workers import first_line, own_error
from rlhf.runtimes.configs import BackendConfig
from rlhf.runtimes.imports import paused_collector
from rlhf.train.disk import why_not_written
from rlhf.types import RunError

SNAPSHOT = "checkpoint_manager_snapshot.json"
"""Ray Train's record of reported checkpoints in the run folder; it lists removed ones too."""
WORK = "work"
"""Name under which ranks get the reference to the function and its argument."""


def run_on_ranks(
    function: Callable[[Any], None],
    argument: Any,
    *,
    num_ranks: int,
    root: Path,
    max_restarts: int,
    backend: BackendConfig,
) -> None:
    """Run `function(argument)` on the ranks of a process group, whose checkpoints are in the folder `root`.

    If a rank dies, all are restarted, at most `max_restarts` times. Raises RunError after that; an error of this
    project in a rank, a full disk included, is raised at once. On a cluster with GPUs each rank has one and NCCL
    connects them, even if the driver's node has none; otherwise gloo does. With `offload_optimizer` each rank has its
    share of the node's CPUs, which compute the optimiser's steps.
    """
    (root / SNAPSHOT).unlink(missing_ok=True)
    num_cpus = cpus_per_accelerator() if backend.offload_optimizer else 1
    torch_config, scaling_config = launch_configs(
        has_accelerators(), num_ranks, backend.collective_timeout_s, num_cpus=num_cpus
    )
    trainer = TorchTrainer(
        work_on_rank,
        # Ray Train's controller unpickles the arguments of the ranks; a reference spares it the ranks' imports.
        train_loop_config={WORK: ray.put((function, argument, root))},
        torch_config=torch_config,
        scaling_config=scaling_config,
        run_config=ray.train.RunConfig(
            name=root.name,
            storage_path=str(root.parent),
            failure_config=ray.train.FailureConfig(max_failures=max_restarts),
            callbacks=[EndAtOwnError()],
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise as_run_error(error.worker_failures, max_restarts) from None
    except ray.train.ControllerError as error:
        raise why_given_up(error.controller_failure, root) from None


def work_on_rank(references: Mapping[str, ray.ObjectRef]) -> None:
    """Call the function of `run_on_ranks` on a rank.

    Raises RunError instead of the errors of a full or unwritable disk of the run's folder.
    """
    with paused_collector():  # the function comes with its imports, DeepSpeed among them
        function, argument, root = ray.get(references[WORK])
    try:
        function(argument)
    except Exception as error:
        place = Path(getattr(error, "filename", None) or root)
        if own_error(error) is None and (problem := why_not_written(place, error)):
            raise problem from error
        raise


class EndAtOwnError(ray.train.UserCallback):
    """Callback that ends the run if a rank raised an error of this project: Ray Train does not restart ranks after a
    callback fails."""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Raise the error of this project; Ray Train's controller calls this before it restarts ranks."""
        if own := first_own_error(worker_exceptions):
            raise own


def first_own_error(failures: Mapping[int, Exception]) -> Exception | None:
    return next((own for error in failures.values() if (own := own_error(error))), None)


def why_given_up(error: Exception, root: Path) -> Exception:
    """Return the reason why Ray Train's controller ended the run: a rank's error, a disk, or its own failure."""
    given_up = RunError(f"Ray Train gave up: {first_line(error)}; resume the run")
    return own_error(error) or why_not_written(root, error) or given_up


def launch_configs(
    accelerated: bool, num_ranks: int, collective_timeout_s: float, *, num_cpus: int
) -> tuple[TorchConfig, ray.train.ScalingConfig]:
    """Return Ray Train's settings for connecting the ranks and for their resources."""
    torch_config = TorchConfig(backend="nccl" if accelerated else "gloo", timeout_s=int(collective_timeout_s))
    resources = {"CPU": num_cpus, **({ACCELERATOR: 1} if accelerated else {})}
    return torch_config, ray.train.ScalingConfig(
        num_workers=num_ranks, use_gpu=accelerated, resources_per_worker=resources
    )


def num_ranks_at_once() -> int:
    """Return the number of ranks that fit in the whole cluster."""
    return int(ray.cluster_resources().get(ACCELERATOR if has_accelerators() else "CPU", 1))


def as_run_error(failures: Mapping[int, Exception], max_restarts: int) -> Exception:
    """Return the most informative failure: an error of this project, else the first rank's."""
    if own := first_own_error(failures):
        return own
    rank, error = next(iter(failures.items()))
    cause = getattr(error, "cause", None) or error
    return RunError(
        f"learner rank {rank} failed after {max_restarts} restarts (train.max_restarts): {first_line(cause)}; fix the "
        "cause and resume the run"
    )


def report_checkpoint(folder: Path, rank: int, figures: Mapping[str, float]) -> None:
    """Report a committed checkpoint to Ray Train without copying it. Every rank calls this."""
    checkpoint = ray.train.Checkpoint(str(folder)) if rank == 0 else None
    ray.train.report(
        dict(figures),
        checkpoint=checkpoint,
        checkpoint_dir_name=os.path.join(folder.parent.name, folder.name),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
    )
