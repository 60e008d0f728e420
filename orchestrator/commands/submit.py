"""Hand a sweep to a Ray cluster that runs elsewhere."""

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
        "--storage", help="Folder of all sweeps on the cluster; left out, its $LETHE_STORAGE or ~/lethe-runs."
    ),
]
ClusterTracking = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", help="MLflow server or store; left out, the cluster's $MLFLOW_TRACKING_URI."
    ),
]
WorkingDir = Annotated[
    Path,
    typer.Option(
        "--working-dir", exists=True, file_okay=False, help="Folder that is uploaded; the job starts in it."
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Leave as soon as the job is submitted.")]
NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Leave checking to the cluster, for files whose data lie only there; needs --name.",
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
    """Run a sweep as a Ray job and follow it; the same command again attaches to it, or resumes it.

    Token and passwords come from the environment: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here,
    MLFLOW_TRACKING_* on the cluster.
    """
    with user_errors():
        from cluster.job_request import JobRequest, file_in_job

        sweep_name = name if no_check else load(file, overrides, name).name
        if sweep_name is None:
            raise UserError(
                "the sweep's name is not known without a check",
                key="--name",
                remedy="give --name with --no-check",
            )
        request = JobRequest(
            sweep_name,
            file_in_job(file, working_dir),
            working_dir,
            tuple(overrides or ()),
            storage,
            tracking_uri,
        )
        # Importing Ray takes seconds; by now all that can be refused without it has been.
        from cluster.job_server import JobServer

        server = JobServer(address)
        job_id = _submit_or_attach(server, request)
        if no_wait:
            say(screen(), _ways(job_id, server.address))
            return
        raise typer.Exit(_follow(server, job_id))


def _submit_or_attach(server: "JobServer", request: "JobRequest") -> str:
    """The id of the sweep's job: the one that runs, or a new one."""
    console, running = screen(), server.running(request.name)
    if running is None:
        job_id = server.submit(request)
        say(console, f"submitted {job_id}: {request.entrypoint}")
        return job_id
    job_id, job = running
    say(console, f"job {job_id} of this sweep is {job.status.value}: attaching to it, nothing is submitted")
    if job.entrypoint != request.entrypoint:
        say(console, f"it was submitted otherwise: {job.entrypoint}")
    return job_id


def _follow(server: "JobServer", job_id: str) -> int:
    """Show the job's output until it ends, or until the person leaves it alone."""
    try:
        status = server.follow(job_id, _show)
    except KeyboardInterrupt:
        say(screen(), f"\n{job_id} goes on without you.\n{_ways(job_id, server.address)}")
        return 130
    if status:
        say(screen(), f"{job_id} failed or was stopped: the same command goes on where it ended")
    return status


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ways(job_id: str, address: str) -> str:
    where = f"{job_id} --address {shlex.quote(address)}"
    return f"attach: the same command, or ray job logs --follow {where}\nstop: ray job stop {where}"
