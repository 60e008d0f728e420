"""`lethe submit`: run a sweep as a job on a Ray cluster, and follow its output."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import File, Name, Overrides, app, load, screen, user_errors
from orchestrator.terminal.rich_tables import say
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from cluster.job_request import JobRequest
    from cluster.job_server import JobServer

PANEL = "On a cluster"

Address = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="The cluster's dashboard, e.g. http://127.0.0.1:8265.",
    ),
]
ClusterStorage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Folder of all sweeps on the cluster.",
        show_default="the cluster's $LETHE_STORAGE or ~/lethe-runs",
    ),
]
ClusterTracking = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", help="MLflow server or store.", show_default="the cluster's $MLFLOW_TRACKING_URI"
    ),
]
WorkingDir = Annotated[
    Path,
    typer.Option(
        "--working-dir",
        exists=True,
        file_okay=False,
        help="Folder to upload, in which the job starts.",
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when the job is submitted.")]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Check the file only on the cluster, where its data is; needs --name.",
    ),
]


@app.command(rich_help_panel=PANEL)
def submit(
    file: File,
    address: Address,
    overrides: Overrides = None,
    name: Name = None,
    storage: ClusterStorage = None,
    tracking_uri: ClusterTracking = None,
    working_dir: WorkingDir = Path(),
    no_wait: NoWait = False,
    no_check: NoCheck = False,
) -> None:
    """Run a sweep as a Ray job and follow it; the same command attaches to a running job, or resumes it.

    Tokens and passwords are read from the environment: RAY_AUTH_MODE=token and
    RAY_AUTH_TOKEN on this machine, MLFLOW_TRACKING_* on the cluster.
    """
    with user_errors():
        from cluster.job_request import JobRequest, file_in_job

        # The name identifies the sweep's job, so that the same command finds it again.
        sweep_name = name if no_check else load(file, overrides, name).name
        if sweep_name is None:
            raise UserError(
                "without a check of the file the sweep's name is not known",
                key="--name",
                remedy="give --name with --no-check",
            )
        job_file = file_in_job(file, working_dir)
        request = JobRequest(sweep_name, job_file, working_dir, tuple(overrides or ()), storage, tracking_uri)
        # Importing Ray takes seconds, so everything that can be refused without it is checked before.
        from cluster.job_server import JobServer

        server = JobServer(address)
        job_id = _submit_or_attach(server, request)
        if no_wait:
            say(screen(), _ways(job_id, server.address))
            return
        raise typer.Exit(_follow(server, job_id))


def _submit_or_attach(server: "JobServer", request: "JobRequest") -> str:
    """Returns the id of the sweep's job: the running one, or a new one."""
    console, running = screen(), server.running(request.name)
    if running is None:
        job_id = server.submit(request)
        say(console, f"submitted {job_id}: {request.entrypoint}")
        return job_id
    # Two drivers of one sweep exclude each other, so no second job is submitted beside a running one.
    job_id, job = running
    say(console, f"job {job_id} of this sweep is {job.status.value}: attaching to it, nothing is submitted")
    if job.entrypoint != request.entrypoint:
        say(console, f"that job was submitted with another command: {job.entrypoint}")
    return job_id


def _follow(server: "JobServer", job_id: str) -> int:
    """Prints the job's output until it ends or Ctrl-C is pressed; returns the exit status of the command."""
    try:
        status = server.follow(job_id, _show)
    except KeyboardInterrupt:
        # Ctrl-C ends only this command: the job belongs to the cluster.
        say(screen(), f"\n{job_id} keeps running.\n{_ways(job_id, server.address)}")
        return 130
    if status:
        say(screen(), f"{job_id} failed or was stopped: the same command resumes the sweep")
    return status


def _show(text: str) -> None:
    # Without rich: the job has formatted its lines, and parts of a line arrive one by one.
    sys.stdout.write(text)
    sys.stdout.flush()


def _ways(job_id: str, address: str) -> str:
    """Returns lines on how to attach to the job again and how to stop it."""
    where = f"{job_id} --address {shlex.quote(address)}"
    return f"attach: the same command, or ray job logs --follow {where}\nstop: ray job stop {where}"
