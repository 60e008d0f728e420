"""Submits a sweep as a Ray job through the cluster's dashboard, and follows its output.

Only this module talks to Ray's job server.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.job_request import JobRequest, job_number, next_job_id, refuse_secrets
from search_spaces.user_errors import UserError

CONNECT_S = 10
# Long enough for a dashboard that restarts, or a laptop that changes networks.
PATIENCE_S = 120
POLL_S = 1.0
# Another user may submit a job with the same number between listing the jobs and the submission.
SUBMISSION_ATTEMPTS = 3
# What Ray's client raises when the connection is lost; it wraps HTTP errors in RuntimeError.
_LOST = (OSError, RuntimeError, aiohttp.ClientError)


class JobServer:
    """The job server of one cluster.

    Args:
        address: URL of the cluster's dashboard.

    Raises:
        UserError: The address is not a URL, no server answers there, or the token is missing or refused.
    """

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        for name in ("ray", "ray.dashboard"):
            # Ray logs uploads at INFO, which would appear among the lines of the job.
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._refusals(), _without_ray_address():
            _check_reachable(self.address)
            self._client = JobSubmissionClient(self.address)

    def running(self, name: str) -> tuple[str, JobDetails] | None:
        """Returns the latest job of sweep `name` that has not ended, as its id and details; None without."""
        jobs = {
            job.submission_id: job
            for job in self._jobs()
            if job.submission_id and not job.status.is_terminal()
        }
        latest = max(jobs, key=lambda job_id: job_number(name, job_id), default="")
        return (latest, jobs[latest]) if job_number(name, latest) else None

    def submit(self, request: JobRequest) -> str:
        """Uploads the working directory and starts the job.

        Returns:
            The id of the job: `lethe`, the name of the sweep, and the number of its submission.
        """
        for attempt in range(SUBMISSION_ATTEMPTS):
            job_id = next_job_id(request.name, (job.submission_id for job in self._jobs()))
            with self._refusals():
                try:
                    return self._client.submit_job(
                        entrypoint=request.entrypoint, submission_id=job_id, runtime_env=request.runtime_env
                    )
                except RuntimeError as error:
                    # Ray has no exception class of its own for a job id that is taken.
                    if "already exists" not in str(error) or attempt == SUBMISSION_ATTEMPTS - 1:
                        raise
                except ValueError as error:
                    raise UserError(
                        f"cannot be uploaded: {error}",
                        key="--working-dir",
                        value=str(request.working_dir),
                        remedy="give a smaller folder, or name what the job does not need in its .rayignore",
                    ) from error
        raise AssertionError("every attempt returns or raises")

    def follow(self, job_id: str, show: Callable[[str], None]) -> int:
        """Shows a job's output from its first line until the job ends, and reconnects if necessary.

        Args:
            job_id: Id of the job.
            show: Called with each piece of the output.

        Returns:
            The exit status: 0 if the job succeeded, that of the command if it failed, 1 if the job was
            stopped or never ran.

        Raises:
            UserError: The cluster has not answered for `PATIENCE_S`.
        """
        shown, answered = 0, time.monotonic()
        while True:
            try:
                # The status is read before the log: a job that had ended by then has written all its output.
                before = self._client.get_job_info(job_id)
                answered = time.monotonic()
                shown = asyncio.run(self._tail(job_id, shown, show))
                if before.status.is_terminal():
                    return exit_status(before)
            except AuthenticationError as error:
                raise _refused(error) from error
            except _Broken as broken:
                shown = broken.shown
            except _LOST as error:
                if time.monotonic() - answered > PATIENCE_S:
                    raise UserError(
                        f"the cluster has not answered for {PATIENCE_S} s; job {job_id} may still run there",
                        key="--address",
                        value=self.address,
                        remedy="give the same command again to attach to it, or to go on where it ended",
                    ) from error
            time.sleep(POLL_S)

    async def _tail(self, job_id: str, shown: int, show: Callable[[str], None]) -> int:
        """Shows the output after its first `shown` characters.

        Ray sends the log from its first line at every connection, so characters are counted.

        Returns:
            The number of characters shown so far.
        """
        seen = 0
        try:
            async for text in self._client.tail_job_logs(job_id):
                seen += len(text)
                if seen > shown:
                    show(text[max(0, len(text) - (seen - shown)) :])
                    shown = seen
        except _LOST as error:
            raise _Broken(shown) from error
        return shown

    def _jobs(self) -> list[JobDetails]:
        with self._refusals():
            return self._client.list_jobs()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Converts errors of Ray's client to user errors."""
        try:
            yield
        except AuthenticationError as error:
            raise _refused(error) from error
        # A server that is not a dashboard answers with other JSON (KeyError) or an HTTP error (RuntimeError).
        except (OSError, RuntimeError, KeyError) as error:
            raise UserError(
                f"this is not the dashboard of a Ray cluster that accepts jobs: {error}",
                key="--address",
                value=self.address,
                remedy=(
                    "give the URL of the head's dashboard (http://127.0.0.1:8265 behind `ray dashboard FILE`)"
                ),
            ) from error


class _Broken(Exception):
    """A connection that broke before the end of the log."""

    def __init__(self, shown: int) -> None:
        super().__init__(shown)
        self.shown = shown


def checked_address(address: str) -> str:
    """Checks the URL of a dashboard, and removes a slash at its end.

    Raises:
        UserError: The address is not an HTTP URL, or contains a password.
    """
    refuse_secrets(address, "--address", "put the token into RAY_AUTH_TOKEN")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "is not the URL of a dashboard",
            key="--address",
            value=address,
            allowed="http://HOST:PORT or https://HOST:PORT",
            remedy="the port is usually 8265",
        )
    return address.rstrip("/")


def exit_status(job: JobDetails) -> int:
    """Returns the exit status for a job that has ended."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    code = job.driver_exit_code or 0
    # The code is negative if a signal ended the command.
    return code if job.status == JobStatus.FAILED and 0 < code < 256 else 1


def _check_reachable(address: str) -> None:
    """Checks that a server answers, since Ray's own client waits for minutes if packets are dropped.

    Raises:
        UserError: No server answers within `CONNECT_S`.
    """
    try:
        requests.get(f"{address}/api/version", timeout=CONNECT_S)
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise UserError(
            f"no server answers within {CONNECT_S} s",
            key="--address",
            value=address,
            remedy=(
                "start the cluster, or forward the port of its dashboard (`ray dashboard FILE`, `kubectl"
                " port-forward`, ssh -L)"
            ),
        ) from error


def _refused(error: AuthenticationError) -> UserError:
    """Builds the user error for a missing or wrong token; the message never contains the token."""
    # Ray raises one exception class for both cases; only its text distinguishes them.
    text = str(error)
    missing = "Authentication required" in text or "couldn't find" in text
    return UserError(
        "the cluster requires a token, and none was sent" if missing else "the cluster refused the token",
        key="RAY_AUTH_TOKEN",
        remedy=(
            "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN with the token that the cluster was started with"
        ),
    )


@contextmanager
def _without_ray_address() -> Iterator[None]:
    """Removes the environment variables that take precedence over the address given to Ray's client."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
