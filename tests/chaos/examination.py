"""Compares what the study, MLflow, Tune and the disk hold about a sweep that faults have struck."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import optuna

from orchestrator.pareto.front import build_front
from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.study import Study
from orchestrator.storage.sweep_folder import SweepFolder, open_sweep
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.settings.trial_settings import TrialSettings
from search_spaces.user_errors import UserError
from tests.chaos.cheap_runner import STARTS

Ended = Mapping[str, tuple[Any, ...]]
"""Trials that have ended: name -> everything that a second run of the trial would change."""

Expect = Callable[[TrialSettings, int, str], dict[str, float]]
"""Takes settings, rung and part; returns the metrics that the trial must have there."""

MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
SLACK_S = 0.05
"""Largest delay in seconds between two processes' notes of the same moment."""


@dataclass
class Findings:
    """Sentences on what went wrong; empty lists if nothing did."""

    lost: list[str] = field(default_factory=list)
    """Trials that had ended and are missing."""
    repeated: list[str] = field(default_factory=list)
    """Trials that ran again after they had ended."""
    disagreeing: list[str] = field(default_factory=list)
    """Differences between the study and other stores."""


def ended_trials(storage: Path, name: str) -> Ended:
    """Returns the trials that have ended according to the study; empty before the study exists."""
    with contextlib.suppress(UserError, optuna.exceptions.OptunaError):
        return {record.trial_id: _mark(record) for record in records_of(storage, name) if record.ended}
    return {}


def records_of(storage: Path, name: str) -> list[TrialRecord]:
    """Returns all trials of the study, read as by any other process."""
    folder, settings = open_sweep(storage, name)
    return Study.read(folder.journal, settings).records()


def examine(storage: Path, name: str, before: Ended, uri: str, expect: Expect | None) -> Findings:
    """Compares a sweep that has ended with its state at the injections, and its stores with each other.

    Args:
        storage: Folder of the sweeps.
        name: Name of the sweep.
        before: Trials that had ended at an injection.
        uri: MLflow's store or server.
        expect: Metrics that a trial must have; None if they are not known.
    """
    folder, sweep = open_sweep(storage, name)
    records = Study.read(folder.journal, sweep).records()
    found = Findings()
    after = {record.trial_id: _mark(record) for record in records if record.ended}
    for trial, mark in before.items():
        if trial not in after:
            found.lost.append(f"{name}/{trial} had ended and is gone")
        elif after[trial] != mark:
            found.repeated.append(f"{name}/{trial} ended twice: {mark} and {after[trial]}")
    found.repeated += _started_after_their_end(storage, name, records)
    found.disagreeing += (
        _repeated_settings(records)
        + _weights(folder, sweep, records)
        + _tune(folder, records)
        + _mlflow(uri, name, records)
    )
    if expect is not None:
        found.disagreeing += _unexpected_metrics(expect, sweep, records)
    return found


def _mark(record: TrialRecord) -> tuple[Any, ...]:
    return record.status, record.finished_at, tuple(tuple(sorted(rung.items())) for rung in record.rungs)


def _started_after_their_end(storage: Path, name: str, records: list[TrialRecord]) -> list[str]:
    """Returns trials that a lane started after their end was in the study; only cheap lanes note starts."""
    file = storage / name / STARTS
    if not file.is_file():
        return []
    ends = {record.trial_id: record.finished_at for record in records}
    wrong = []
    for trial, start in (line.split() for line in file.read_text().splitlines()):
        end = ends.get(trial)
        if end is not None and float(start) > end + SLACK_S:
            wrong.append(f"{name}/{trial} was started again {float(start) - end:.1f} s after its end")
    return wrong


def _repeated_settings(records: list[TrialRecord]) -> list[str]:
    counts = Counter(tuple(sorted(record.params.items())) for record in records)
    return [f"{count} trials with settings {dict(params)}" for params, count in counts.items() if count > 1]


def _weights(folder: SweepFolder, sweep: SweepSettings, records: list[TrialRecord]) -> list[str]:
    """Returns members of the front without weights, and weights that are incomplete."""
    wrong = []
    for member in build_front(records, criteria_of(sweep)).members:
        trial, rung = member.key
        if not (folder.weights(trial) / f"rung{rung}").is_dir():
            wrong.append(f"no weights of {trial}@{rung}")
    partial = (folder.path / "trials").glob("*/weights/*partial*")
    return wrong + [f"left over: {path}" for path in partial]


def _tune(folder: SweepFolder, records: list[TrialRecord]) -> list[str]:
    """Returns trials that ended otherwise according to Ray Tune than according to the study.

    Each start has a file of Tune's. That of a killed driver may be old, so trials that it holds as running
    are not compared.
    """
    states = {record.number: record.status for record in records}
    wrong = []
    pattern = "tune-*/experiment_state-*.json"
    files = sorted(folder.tune.glob(pattern), key=lambda file: file.stat().st_mtime_ns)
    for file in files:
        try:
            held = json.loads(file.read_text())["trial_data"]
        except json.JSONDecodeError:
            # Ray writes the file in place, so a full disk may truncate it. The last start had free space.
            wrong += ["Tune's newest state is truncated"] if file == files[-1] else []
            continue
        for settings, progress in held:
            trial, last = json.loads(settings), json.loads(progress)["last_result"]
            number, outcome = trial["config"]["number"], next(iter((last or {}).get("outcomes", [])), {})
            if trial["status"] == "TERMINATED" and outcome.get("status") not in (states.get(number), "lost"):
                wrong.append(f"Tune says {outcome} of t{number:04d}: {states.get(number)}")
            elif trial["status"] == "ERROR":
                wrong.append(f"Tune has an error in t{number:04d}")
    return wrong


def _mlflow(uri: str, name: str, records: list[TrialRecord]) -> list[str]:
    """Returns trials without exactly one run in MLflow, and runs that differ from the study."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("lethe")
    if experiment is None:
        return ["MLflow has no experiment"]
    runs = client.search_runs([experiment.experiment_id], f"tags.`lethe.sweep` = '{name}'", max_results=5000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    if len(parents) != 1:
        return [f"MLflow has {len(parents)} parent runs"]
    children = {run.data.tags["lethe.trial"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    wrong = []
    if len(runs) != len(children) + 1:
        wrong.append(f"MLflow has {len(runs) - 1} runs of {len(children)} trials")
    if children.keys() != {record.trial_id for record in records}:
        wrong.append(f"MLflow's trials are {sorted(children)}")
    for record in records:
        if (run := children.get(record.trial_id)) is None:
            continue
        status = (run.data.tags["status"], run.info.status)
        if status != (record.status, MLFLOW_STATUS.get(record.status, "RUNNING")):
            wrong.append(f"MLflow says {', '.join(status)} of {record.trial_id}: {record.status}")
        for key in {key for rung in record.rungs for key in rung}:
            # A value that was sent twice would be in the history twice.
            history = client.get_metric_history(run.info.run_id, key)
            sent = sorted((metric.step, metric.value) for metric in history)
            if sent != [(step, rung[key]) for step, rung in enumerate(record.rungs) if key in rung]:
                wrong.append(f"MLflow's {key} of {record.trial_id} is {sent}")
    return wrong


def _unexpected_metrics(expect: Expect, sweep: SweepSettings, records: list[TrialRecord]) -> list[str]:
    wrong = []
    for record in records:
        trial = apply(sweep.trial, record.params)
        for rung, metrics in enumerate(record.rungs, 1):
            expected = expect(trial, rung, "validation") | expect(trial, rung, "test")
            if any(expected[key] != value for key, value in metrics.items()):
                wrong.append(f"{record.trial_id} at rung {rung} measured {dict(metrics)}, not {expected}")
    return wrong
