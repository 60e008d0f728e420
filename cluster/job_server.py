"""Starts a sweep as a Ray job over the cluster's dashboard, and follows it: the one place that talks to Ray's
job server."""

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
# A dashboard that restarts, or a laptop that changes networks.
PATIENCE_S = 120
POLL_S = 1.0
# Somebody else may take the same number between the look and the submission.
SUBMISSION_ATTEMPTS = 3
_LOST = (OSError, RuntimeError, aiohttp.ClientError)


class JobServer:
    """The job server of one cluster.

    Args:
        address: URL of the cluster's dashboard.

    Raises:
        UserError: The address is no such URL, nothing answers there, or the token is missing or refused.
    """

    def __init__(self, address: str) -> None:
        self.address = checked_address(address)
        for name in ("ray", "ray.dashboard"):
            # Uploads are told of at INFO, among the lines of the job.
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._refusals(), _without_ray_address():
            _knock(self.address)
            self._client = JobSubmissionClient(self.address)

    def running(self, name: str) -> tuple[str, JobDetails] | None:
        """The job of sweep `name` that has not ended, by its id; the latest where there are several."""
        jobs = {
            job.submission_id: job
            for job in self._jobs()
            if job.submission_id and not job.status.is_terminal()
        }
        latest = max(jobs, key=lambda job_id: job_number(name, job_id), default="")
        return (latest, jobs[latest]) if job_number(name, latest) else None

    def submit(self, request: JobRequest) -> str:
        """Upload the working directory and start the job.

        Returns:
            Its id, which says `lethe`, the sweep, and how often it was submitted here.
        """
        for attempt in range(SUBMISSION_ATTEMPTS):
            job_id = next_job_id(request.name, (job.submission_id for job in self._jobs()))
            with self._refusals():
                try:
                    return self._client.submit_job(
                        entrypoint=request.entrypoint, submission_id=job_id, runtime_env=request.runtime_env
                    )
                except RuntimeError as error:
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
        """Show a job's output, from its first line on, until it ends; connections that break are made again.

        Args:
            job_id: The job.
            show: Takes the output piece by piece.

        Returns:
            Exit status: 0 when it succeeded, the command's own when that failed, 1 when it was stopped or
                never ran.

        Raises:
            UserError: The cluster did not answer for `PATIENCE_S`.
        """
        shown, answered = 0, time.monotonic()
        while True:
            try:
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
        """Show what comes after the first `shown` characters: every connection begins with the first line.

        Returns:
            How many characters are shown now.
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
        """Say in one message what the cluster, or the way there, has against a request."""
        try:
            yield
        except AuthenticationError as error:
            raise _refused(error) from error
        except (OSError, RuntimeError, KeyError) as error:
            raise UserError(
                f"this is not the dashboard of a Ray cluster that takes jobs: {error}",
                key="--address",
                value=self.address,
                remedy=(
                    "give the URL of the head's dashboard (http://127.0.0.1:8265 behind `ray dashboard FILE`)"
                ),
            ) from error


class _Broken(Exception):
    """A connection that ended before the log did."""

    def __init__(self, shown: int) -> None:
        super().__init__(shown)
        self.shown = shown


def checked_address(address: str) -> str:
    """The URL of a dashboard without a slash at its end.

    Raises:
        UserError: It is none, or has a password in it.
    """
    refuse_secrets(address, "--address", "put the token into RAY_AUTH_TOKEN")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "is not the URL of a dashboard",
            key="--address",
            value=address,
            allowed="http://HOST:PORT or https://HOST:PORT",
            remedy="the port is 8265 as a rule",
        )
    return address.rstrip("/")


def exit_status(job: JobDetails) -> int:
    """Exit status for a job that has ended."""
    if job.status == JobStatus.SUCCEEDED:
        return 0
    code = job.driver_exit_code or 0
    # Negative where a signal ended it.
    return code if job.status == JobStatus.FAILED and 0 < code < 256 else 1


def _knock(address: str) -> None:
    """See that somebody is there: Ray's own client would wait for minutes where packets are dropped.

    Raises:
        UserError: Nobody is.
    """
    try:
        requests.get(f"{address}/api/version", timeout=CONNECT_S)
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise UserError(
            f"nothing answers within {CONNECT_S} s",
            key="--address",
            value=address,
            remedy=(
                "start the cluster, or open the way to its dashboard (`ray dashboard FILE`, `kubectl"
                " port-forward`, ssh -L)"
            ),
        ) from error


def _refused(error: AuthenticationError) -> UserError:
    """Whether a token is missing or wrong; the token itself is in no message."""
    text = str(error)
    missing = "Authentication required" in text or "couldn't find" in text
    return UserError(
        "the cluster asks for a token, and none was sent" if missing else "the cluster refused the token",
        key="RAY_AUTH_TOKEN",
        remedy=(
            "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN with the token that the cluster was started with"
        ),
    )


@contextmanager
def _without_ray_address() -> Iterator[None]:
    """Take out of the environment what Ray's client obeys more than the address it is given."""
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
