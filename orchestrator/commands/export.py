"""`lethe export` and `reproduce`: write a model of a sweep, and run one of its trials again."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import (
    Rung,
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
    from orchestrator.pareto.member_selection import ChosenRung
    from orchestrator.storage.sweep_folder import SweepFolder
    from orchestrator.storage.trial_records import TrialRecord
    from orchestrator.tracking.tracked_sweep import TrackedSweep
    from search_spaces.settings.sweep_settings import SweepSettings

PANEL = "Out of a sweep"

TrialOrRung = Annotated[
    str,
    typer.Argument(metavar="TRIAL", help="Trial such as t0003; with --weights, also a rung such as t0003@2."),
]
FromMlflow = Annotated[
    bool,
    typer.Option("--from-mlflow", help="Read the trial from MLflow, even if the sweep's folder exists."),
]
WeightsFolder = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FOLDER", help="Also write the weights of the trial's kept rungs."),
]


@app.command(rich_help_panel=PANEL)
def export(
    sweep: Sweep,
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write; it must be empty or not exist.")
    ],
    trial: Rung = "knee",
    register: Annotated[
        str | None,
        typer.Option("--register", metavar="NAME", help="Also register the model in MLflow by this name."),
    ] = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a model of a sweep as a Hugging Face folder, with its metrics and settings in the model card."""
    with user_errors():
        from orchestrator.followups.model_evidence import gather_evidence
        from orchestrator.followups.model_export import check_output, find_weights
        from orchestrator.followups.model_export import export as write_export
        from orchestrator.pareto.member_selection import choose_rung
        from orchestrator.pareto.objectives import criteria_of
        from orchestrator.storage.provenance import provenance

        # Everything that can be refused is checked before the first file is written.
        check_output(output)
        folder, settings, study = open_named(sweep, storage)
        chosen = choose_rung(study.records(), criteria_of(settings), trial, "--trial")
        weights = find_weights(folder, chosen)
        if register is not None:
            from orchestrator.tracking.model_registry import check_name

            check_name(register)
        uri = tracking_store(tracking_uri, folder)
        tracked = _tracked(uri, sweep, folder)
        tags, when = (tracked.tags, "at the sweep") if tracked else (provenance(), "at the export")
        versions = {key: value for key, value in tags.items() if key.startswith(("version.", "git."))}
        write_export(weights, gather_evidence(settings, folder, chosen, versions, when), output)
        say(screen(), f"{chosen.name} of {sweep}: {output}")
        if register is not None:
            version = _register(register, uri, folder, settings, chosen, output)
            say(screen(), f"registered: models:/{register}/{version}")


def _register(
    name: str, uri: str, folder: "SweepFolder", settings: "SweepSettings", chosen: "ChosenRung", model: Path
) -> str:
    """Registers an exported model in MLflow; returns its version."""
    from orchestrator.pareto.objectives import objective_values, objectives_of
    from orchestrator.tracking.model_registry import RegistryEntry, register_model
    from orchestrator.tracking.tracking_store import EXPERIMENT

    # The test part is what reports show; the model was chosen on the validation part.
    values = objective_values(chosen.metrics, objectives_of(settings), "test") or {}
    tags = {f"test.{metric}": repr(value) for metric, value in values.items()}
    trial_id = chosen.record.trial_id
    entry = RegistryEntry(name, folder.name, _identity(folder), trial_id, chosen.rung, tags)
    return register_model(uri, EXPERIMENT, entry, model)


@app.command(rich_help_panel=PANEL)
def reproduce(
    sweep: Sweep,
    trial: TrialOrRung,
    from_mlflow: FromMlflow = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Number of ZeRO-3 workers.", show_default="the sweep's"),
    ] = None,
    weights: WeightsFolder = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Run one trial again with the same settings, and compare its metrics bit for bit.

    The sweep itself does not change. Exit status 1: a metric differs.
    """
    with user_errors():
        from orchestrator.followups.model_export import check_output
        from orchestrator.followups.reproduction import compare, compare_origins, describe
        from orchestrator.storage.provenance import provenance
        from orchestrator.storage.sweep_folder import SweepFolder, storage_root

        if weights is not None:
            check_output(weights)
        # Not opened: the folder need not exist if MLflow holds the sweep.
        folder = SweepFolder(storage_root(storage), sweep)
        uri = tracking_store(tracking_uri, folder)
        settings, record, tracked = _recorded(folder, trial, uri, storage, from_mlflow=from_mlflow)
        sweep_workers = settings.resources.workers_per_trial
        count = workers or sweep_workers
        benchmark = load_data(settings, str(folder.settings))
        # The repetition has a folder of its own: the sweep may be running, and nothing is written to it.
        beside = _with_workers(settings, count).model_copy(
            update={"name": f"reproductions/{sweep}-{record.trial_id}"}
        )
        # The rung to write is kept even if it was not on the front when the trial ran.
        kept_rung = int(trial.partition("@")[2]) if "@" in trial else len(record.rungs)
        # A worker of the lane writes the weights, in another working directory.
        output = None if weights is None else weights.resolve()
        with sweep_session(beside, str(folder.settings), storage, uri, benchmark=benchmark) as session:
            from orchestrator.sweep.followup_runs import reproduce_trial

            outcome = reproduce_trial(session, record, output, kept_rung if weights else None)
            # The folder holds only a log, which is needed if the repetition ends without an outcome.
            shutil.rmtree(session.folder.path, ignore_errors=True)
        found, origins = compare(record, outcome), []
        if tracked:
            now = provenance() | {"lethe.data_digest": benchmark.digest}
            origins = compare_origins(tracked.tags, now, (sweep_workers, count))
        for line in describe(record, found, origins):
            say(screen(), line)
        if tracked is None:
            say(screen(), "  MLflow does not have the sweep: versions were not compared")
    # Exit status 1, so that a script can test for identity.
    if not found.identical:
        raise typer.Exit(1)


def _recorded(
    folder: "SweepFolder", trial: str, uri: str, storage: Path | None, *, from_mlflow: bool
) -> "tuple[SweepSettings, TrialRecord, TrackedSweep | None]":
    """Returns the sweep's settings, the trial's record, and what MLflow holds about the sweep.

    Settings and record come from the sweep's folder, or from MLflow if the folder does not exist.

    Raises:
        UserError: There is no such trial or rung, or the trial has not ended.
    """
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
    resources = settings.resources.model_copy(update={"workers_per_trial": workers})
    return settings.model_copy(update={"resources": resources})


def tracking_store(given: str | None, folder: "SweepFolder") -> str:
    """Returns the MLflow store in which the sweep was probably tracked.

    A sweep does not record its store: it is the given one, `$MLFLOW_TRACKING_URI`, or the default.
    """
    from orchestrator.tracking.tracking_store import default_tracking_uri

    return given or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(folder.root)


def _identity(folder: "SweepFolder") -> str | None:
    from orchestrator.storage.provenance import sweep_identity

    # `sweep_identity` would create a missing id, which only a driver may.
    return sweep_identity(folder.path) if (folder.path / "sweep_id").is_file() else None


def _tracked(uri: str, sweep: str, folder: "SweepFolder") -> "TrackedSweep | None":
    """Returns what MLflow holds about a sweep; None if its server does not answer or has no such sweep."""
    from orchestrator.tracking.tracked_sweep import read_tracked_sweep
    from orchestrator.tracking.tracking_store import EXPERIMENT

    try:
        return read_tracked_sweep(uri, EXPERIMENT, sweep, _identity(folder))
    except UserError:
        # The sweep's folder is enough for both commands; only its versions are unknown.
        return None
