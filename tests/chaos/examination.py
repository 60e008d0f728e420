"""What the stores say about a sweep, and whether they say the same."""

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
"""Trials that have ended: name -> all that a second run of it would change."""

Expect = Callable[[TrialSettings, int, str], dict[str, float]]
"""What a trial must measure at a rung on a part."""

MLFLOW_STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
SLACK_S = 0.05
"""Two processes of one machine write down times this near to each other."""


@dataclass
class Findings:
    """What went wrong, in words; nothing when all is well."""

    lost: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    disagreeing: list[str] = field(default_factory=list)


def ended_trials(storage: Path, name: str) -> Ended:
    """Trials that the study holds as ended now; empty before there is a study."""
    with contextlib.suppress(UserError, optuna.exceptions.OptunaError):
        return {record.trial_id: _mark(record) for record in records_of(storage, name) if record.ended}
    return {}


def records_of(storage: Path, name: str) -> list[TrialRecord]:
    """All trials of the study, read as any other process would."""
    folder, settings = open_sweep(storage, name)
    return Study.read(folder.journal, settings).records()


def examine(storage: Path, name: str, before: Ended, uri: str, expect: Expect | None) -> Findings:
    """Compare a sweep that has ended with what was known at the injections, and its stores with each other.

    Args:
        storage: Folder of the sweeps.
        name: The sweep.
        before: All that had ended at any injection.
        uri: MLflow's store or server.
        expect: What a trial must have measured, where that is known.
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
        _settings_met_twice(records)
        + _weights(folder, sweep, records)
        + _tune(folder, records)
        + _mlflow(uri, name, records)
    )
    if expect is not None:
        found.disagreeing += _unlike(expect, sweep, records)
    return found


def _mark(record: TrialRecord) -> tuple[Any, ...]:
    return record.status, record.finished_at, tuple(tuple(sorted(rung.items())) for rung in record.rungs)


def _started_after_their_end(storage: Path, name: str, records: list[TrialRecord]) -> list[str]:
    """The lanes' own diary, where they keep one: nobody may start a trial whose end is in the study."""
    diary = storage / name / STARTS
    if not diary.is_file():
        return []
    ends = {record.trial_id: record.finished_at for record in records}
    starts = [line.split() for line in diary.read_text().splitlines()]
    return [
        f"{name}/{trial} was started again {float(when) - end:.1f} s after its end"
        for trial, when in starts
        if (end := ends.get(trial)) is not None and float(when) > end + SLACK_S
    ]


def _settings_met_twice(records: list[TrialRecord]) -> list[str]:
    counts = Counter(tuple(sorted(record.params.items())) for record in records)
    return [f"{count} trials with settings {dict(params)}" for params, count in counts.items() if count > 1]


def _weights(folder: SweepFolder, sweep: SweepSettings, records: list[TrialRecord]) -> list[str]:
    """Members of the front have weights, and nothing is half written."""
    members = {
        (member.record.trial_id, member.rung) for member in build_front(records, criteria_of(sweep)).members
    }
    missing = [
        f"no weights of {name}@{rung}"
        for name, rung in members
        if not (folder.weights(name) / f"rung{rung}").is_dir()
    ]
    return missing + [f"left over: {path}" for path in (folder.path / "trials").glob("*/weights/*partial*")]


def _tune(folder: SweepFolder, records: list[TrialRecord]) -> list[str]:
    """What every start's Tune holds as ended has ended in the study, in the same way. Ray's own file: a
    killed driver's may be old."""
    states = {record.number: record.status for record in records}
    wrong = []
    files = sorted(
        folder.tune.glob("tune-*/experiment_state-*.json"), key=lambda file: file.stat().st_mtime_ns
    )
    for file in files:
        try:
            held = json.loads(file.read_text())["trial_data"]
        except json.JSONDecodeError:
            # Ray writes in place: a full disk tears the file of a start that ends with it. The last start had
            # room.
            wrong += ["Tune's newest state is torn"] if file == files[-1] else []
            continue
        for told, progress in held:
            trial, last = json.loads(told), json.loads(progress)["last_result"]
            number, outcome = trial["config"]["number"], (last or {}).get("outcome") or {}
            if trial["status"] == "TERMINATED" and outcome.get("status") not in (states.get(number), "lost"):
                wrong.append(f"Tune says {outcome} of t{number:04d}: {states.get(number)}")
            elif trial["status"] == "ERROR":
                wrong.append(f"Tune has an error in t{number:04d}")
    return wrong


def _mlflow(uri: str, name: str, records: list[TrialRecord]) -> list[str]:
    """Each trial has one run, which says what the study says, and every measurement once."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("lethe")
    if experiment is None:
        return ["MLflow has no experiment"]
    runs = client.search_runs([experiment.experiment_id], f"tags.`lethe.sweep` = '{name}'", max_results=5000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    if len(parents) != 1:
        return [f"MLflow has {len(parents)} parent runs"]
    children = {run.data.tags["lethe.trial"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    wrong = (
        []
        if len(runs) == len(children) + 1
        else [f"MLflow has {len(runs) - 1} runs of {len(children)} trials"]
    )
    if children.keys() != {record.trial_id for record in records}:
        wrong.append(f"MLflow's trials are {sorted(children)}")
    for record in records:
        if (run := children.get(record.trial_id)) is None:
            continue
        if (run.data.tags["status"], run.info.status) != (
            record.status,
            MLFLOW_STATUS.get(record.status, "RUNNING"),
        ):
            wrong.append(
                f"MLflow says {run.data.tags['status']}, {run.info.status} of {record.trial_id}:"
                f" {record.status}"
            )
        for key in {key for rung in record.rungs for key in rung}:
            told = sorted(
                (metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)
            )
            if told != [(step, rung[key]) for step, rung in enumerate(record.rungs) if key in rung]:
                wrong.append(f"MLflow's {key} of {record.trial_id} is {told}")
    return wrong


def _unlike(expect: Expect, sweep: SweepSettings, records: list[TrialRecord]) -> list[str]:
    wrong = []
    for record in records:
        trial = apply(sweep.trial, record.params)
        for rung, metrics in enumerate(record.rungs, 1):
            right = expect(trial, rung, "validation") | expect(trial, rung, "test")
            if any(right[key] != value for key, value in metrics.items()):
                wrong.append(f"{record.trial_id} at rung {rung} measured {dict(metrics)}, not {right}")
    return wrong
