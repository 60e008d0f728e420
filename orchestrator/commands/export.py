"""Take a model out of a sweep, and run one of its trials again."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import (
    Storage,
    Sweep,
    TrackingUri,
    app,
    load_data,
    open_named,
    screen,
    user_errors,
)
from orchestrator.commands.run import sweep_session
from orchestrator.terminal.rich_tables import say
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from orchestrator.storage.sweep_folder import SweepFolder
    from orchestrator.storage.trial_records import TrialRecord
    from orchestrator.tracking.tracked_sweep import TrackedSweep
    from search_spaces.settings.sweep_settings import SweepSettings

PANEL = "Out of a sweep"


@app.command(rich_help_panel=PANEL)
def export(
    sweep: Sweep,
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist, or be empty.")
    ],
    trial: Annotated[
        str, typer.Option("--trial", help='knee, t0007, t0007@2, or conditions such as "utility>=0.5".')
    ] = "knee",
    register: Annotated[
        str | None,
        typer.Option("--register", metavar="NAME", help="Also register it in MLflow under this name."),
    ] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a model of the front as a Hugging Face folder, with its evidence in the model card."""
    with user_errors():
        from orchestrator.followups.model_evidence import gather_evidence
        from orchestrator.followups.model_export import check_output, find_weights
        from orchestrator.followups.model_export import export as write_export
        from orchestrator.pareto.member_selection import choose_rung
        from orchestrator.pareto.objectives import criteria_of
        from orchestrator.storage.provenance import provenance

        check_output(output)
        folder, settings, study = open_named(sweep, storage)
        chosen = choose_rung(study.records(), criteria_of(settings), trial, "--trial")
        weights = find_weights(folder, chosen)
        if register is not None:
            from orchestrator.tracking.model_registry import check_name

            check_name(register)
        uri = tracking_store(tracking_uri, folder)
        tracked = _tracked(uri, sweep, folder)
        versions, when = (tracked.tags, "at the sweep") if tracked else (provenance(), "at the export")
        versions = {key: value for key, value in versions.items() if key.startswith(("version.", "git."))}
        write_export(weights, gather_evidence(settings, folder, chosen, versions, when), output)
        say(screen(), f"{chosen.name} of {sweep}: {output}")
        if register is not None:
            from orchestrator.pareto.objectives import objective_values, objectives_of
            from orchestrator.tracking.model_registry import RegistryEntry, register_model
            from orchestrator.tracking.tracking_store import EXPERIMENT

            values = objective_values(chosen.metrics, objectives_of(settings), "test") or {}
            tags = {f"test.{name}": repr(value) for name, value in values.items()}
            entry = RegistryEntry(
                register, sweep, _identity(folder), chosen.record.trial_id, chosen.rung, tags
            )
            version = register_model(uri, EXPERIMENT, entry, output)
            say(screen(), f"registered: models:/{register}/{version}")


@app.command(rich_help_panel=PANEL)
def reproduce(
    sweep: Sweep,
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL", help="Trial such as t0003; with --weights, also a rung such as t0003@2."
        ),
    ],
    from_mlflow: Annotated[
        bool, typer.Option("--from-mlflow", help="Read it from MLflow even where the sweep's folder is.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="ZeRO-3 workers in place of the sweep's.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FOLDER", help="Also write the weights of its kept rungs."),
    ] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run one trial again as it was, and say whether the result is identical. The sweep is left as it is."""
    with user_errors():
        from orchestrator.followups.model_export import check_output
        from orchestrator.followups.reproduction import compare, compare_origins, describe
        from orchestrator.storage.provenance import provenance
        from orchestrator.storage.sweep_folder import SweepFolder, storage_root

        if weights is not None:
            check_output(weights)
        folder = SweepFolder(storage_root(storage), sweep)
        uri = tracking_store(tracking_uri, folder)
        settings, record, tracked = _recorded(folder, trial, uri, storage, from_mlflow=from_mlflow)
        then = settings.resources.workers_per_trial
        again = _with_workers(settings, workers or then)
        benchmark = load_data(settings, str(folder.settings))
        digest = {"lethe.data_digest": benchmark.digest}
        # A folder of its own: nothing is written to the sweep, which may be running.
        named = again.model_copy(update={"name": f"reproductions/{sweep}-{record.trial_id}"})
        kept_rung = int(trial.partition("@")[2]) if "@" in trial else len(record.rungs)
        place = None if weights is None else weights.resolve()
        with sweep_session(named, str(folder.settings), storage, uri, benchmark=benchmark) as session:
            from orchestrator.sweep.followup_runs import reproduce_trial

            outcome = reproduce_trial(session, record, place, kept_rung if weights else None)
            # Only the log of a run without an outcome is of use.
            shutil.rmtree(session.folder.path, ignore_errors=True)
        found = compare(record, outcome)
        origins = (
            compare_origins(tracked.tags, provenance() | digest, (then, again.resources.workers_per_trial))
            if tracked
            else []
        )
        for line in describe(record, found, origins):
            say(screen(), line)
        if tracked is None:
            say(screen(), "  MLflow does not have the sweep: versions were not compared")
    if not found.identical:
        raise typer.Exit(1)


def _recorded(
    folder: "SweepFolder", trial: str, uri: str, storage: Path | None, *, from_mlflow: bool
) -> "tuple[SweepSettings, TrialRecord, TrackedSweep | None]":
    """A trial from the study's journal, or from MLflow where there is none; and what MLflow knows of the
    sweep's origins."""
    from orchestrator.pareto.member_selection import find_trial
    from orchestrator.tracking.tracked_sweep import read_tracked_sweep, read_tracked_trials
    from orchestrator.tracking.tracking_store import EXPERIMENT

    tracked: TrackedSweep | None
    if folder.settings.is_file() and not from_mlflow:
        _, settings, study = open_named(folder.name, storage)
        records, tracked = study.records(), _tracked(uri, folder.name, folder)
    else:
        tracked = read_tracked_sweep(uri, EXPERIMENT, folder.name)
        settings, records = tracked.settings, read_tracked_trials(uri, EXPERIMENT, folder.name)
    name, _, rung = trial.partition("@")
    record = find_trial(records, name, "TRIAL")
    if not record.ended:
        raise UserError(
            "the trial is still running",
            key="TRIAL",
            value=trial,
            remedy="wait for its end: see `lethe status`",
        )
    if rung and (not rung.isdigit() or not 1 <= int(rung) <= len(record.rungs)):
        raise UserError(
            "the trial has no such rung",
            key="TRIAL",
            value=trial,
            allowed=f"{name}@1 to {name}@{len(record.rungs)}",
        )
    return settings, record, tracked


def _with_workers(settings: "SweepSettings", workers: int) -> "SweepSettings":
    return settings.model_copy(
        update={"resources": settings.resources.model_copy(update={"workers_per_trial": workers})}
    )


def tracking_store(given: str | None, folder: "SweepFolder") -> str:
    """Where the sweep was tracked, as far as this command can know."""
    from orchestrator.tracking.tracking_store import default_tracking_uri

    return given or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(folder.root)


def _identity(folder: "SweepFolder") -> str | None:
    from orchestrator.storage.provenance import sweep_identity

    # Only read: making one is the driver's business.
    return sweep_identity(folder.path) if (folder.path / "sweep_id").is_file() else None


def _tracked(uri: str, sweep: str, folder: "SweepFolder") -> "TrackedSweep | None":
    """What MLflow knows of a sweep whose folder is here; None where it is away or knows nothing."""
    from orchestrator.tracking.tracked_sweep import read_tracked_sweep
    from orchestrator.tracking.tracking_store import EXPERIMENT

    try:
        return read_tracked_sweep(uri, EXPERIMENT, sweep, _identity(folder))
    except UserError:
        return None
