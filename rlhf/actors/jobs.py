"""Runs as Ray jobs on an existing cluster."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import requests
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from rlhf.types import InputError, RunError

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
NOT_FOUND = "status code 404"
CONTINUE = "the same command continues the sweep"


class RayJobs:
    """Submits commands with their code: `working_dir` is uploaded, without the files of .gitignore and .rayignore.

    Raises InputError if no address is set, no cluster answers there, or it accepts no token of this machine.
    """

    def __init__(self, address: str | None, working_dir: Path, command: Sequence[str]) -> None:
        address = address or next((os.environ[name] for name in ADDRESSES if name in os.environ), None)
        if address is None:
            # Without an address, Ray would use any cluster that runs on this machine.
            raise InputError("sweep.address: it must be set, as in sweep.address=http://HOST:8265, or RAY_ADDRESS")
        self.working_dir, self.command = working_dir, command
        # Ray logs every file that it does not upload, at every submission.
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            self.client = JobSubmissionClient(address)
        except AuthenticationError:
            raise InputError(
                f"sweep.address={address}: there is no token here, or the cluster refuses it; export "
                "RAY_AUTH_MODE=token, and its token in RAY_AUTH_TOKEN or the file that RAY_AUTH_TOKEN_PATH names"
            ) from None
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise InputError(f"sweep.address={address}: no cluster answers there ({error}); correct it") from None

    def submit(self, submission_id: str, overrides: Sequence[str]) -> None:
        entrypoint = shlex.join([*self.command, *overrides])
        try:
            self.client.submit_job(
                entrypoint=entrypoint, submission_id=submission_id, runtime_env={"working_dir": str(self.working_dir)}
            )
        except (RuntimeError, ValueError, requests.exceptions.RequestException) as error:
            raise RunError(f"the cluster did not take job {submission_id} ({error}); {CONTINUE}") from error

    def ending(self, submission_id: str) -> str | None:
        """Return how a job ended, in a sentence; None while it waits or runs."""
        try:
            job = self.client.get_job_info(submission_id)
        except (RuntimeError, requests.exceptions.RequestException) as error:
            if NOT_FOUND in str(error):
                return "the cluster does not know its job"
            raise RunError(f"the cluster does not answer for job {submission_id} ({error}); {CONTINUE}") from error
        if not job.status.is_terminal():
            return None
        if job.status is JobStatus.SUCCEEDED:
            return "its job ended without a model"
        errors = [line for line in self.client.get_job_logs(submission_id).splitlines() if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else str(job.message)

    def stop(self, submission_id: str) -> None:
        """Send a job SIGTERM. A job that has ended already stays as it is."""
        try:
            self.client.stop_job(submission_id)
        except (RuntimeError, requests.exceptions.RequestException) as error:
            raise RunError(f"the cluster did not stop job {submission_id} ({error}); {CONTINUE}") from error
