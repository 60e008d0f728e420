"""Prints the trials and the front of a sweep, and returns the same as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from orchestrator.pareto.front import Front
from orchestrator.pareto.objectives import criteria_of, objective_values
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.audit_table import SHORT
from orchestrator.report.sections.stopping_statistics import stopping_statistics
from orchestrator.report.tables import front_table, params_line, probe_titles
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.table import Column, Table
from orchestrator.terminal.live_progress import duration, seconds_left
from orchestrator.terminal.rich_tables import rich_table, say
from search_spaces.settings.sweep_settings import SweepSettings


def status_json(sweep: SweepSettings, records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Returns the state of a sweep as plain data: counts, hypervolume, time left, and every trial."""
    criteria = criteria_of(sweep)
    sweep_state = SweepState(criteria, sweep.resources.workers_per_trial, records)
    rungs = _rungs_on_front(sweep_state.reported_front)
    return {
        "sweep": sweep.name,
        "trials": sweep.search.trials,
        "finished": sweep_state.counts["finished"],
        "stopped": sweep_state.counts["stopped"],
        "failed": sweep_state.counts["failed"],
        "running": sweep_state.counts["running"],
        "hypervolume": sweep_state.reported_front.hypervolume,
        "worker_seconds": 3600 * sweep_state.worker_hours,
        "early_stopping": asdict(stopping_statistics(sweep, records, sweep_state.reported_front)),
        "eta_s": seconds_left(sweep_state, sweep.search.trials, 1),
        "records": [
            {
                "trial_id": record.trial_id,
                "status": record.status,
                "on_front": record.trial_id in rungs,
                "front_rungs": rungs.get(record.trial_id, []),
                "objectives": objective_values(record.metrics, criteria.objectives, "test"),
                "validation": objective_values(record.metrics, criteria.objectives, "validation"),
                "params": dict(record.params),
                "reason": record.reason,
                "duration_s": record.duration_s,
                "worker_seconds": record.spent_s * sweep.resources.workers_per_trial,
                "mlflow_run_id": record.mlflow_run_id,
            }
            for record in records
        ],
    }


def status_table(sweep: SweepSettings, records: Sequence[TrialRecord], sweep_state: SweepState) -> Table:
    """Returns a row per trial: how it ended, its objectives on the test part, and its parameters."""
    objectives, rungs = sweep_state.criteria.objectives, _rungs_on_front(sweep_state.reported_front)
    columns = [
        Column("trial"),
        Column("status"),
        *(Column(f"{objective.name} ({objective.direction})", "{:.4f}".format) for objective in objectives),
        Column("time", duration),
        Column("reason", long=True),
        Column("parameters", params_line, long=True),
    ]
    rows = []
    for record in records:
        values = objective_values(record.metrics, objectives, "test") or {}
        members = rungs.get(record.trial_id)
        rows.append(
            [
                record.trial_id,
                f"on the front at rung {', '.join(map(str, members))}" if members else record.status,
                *(values.get(objective.name) for objective in objectives),
                record.duration_s or None,
                # A member of the front was stopped at a later rung, which is no news about the member.
                None if members else record.reason,
                record.params,
            ]
        )
    return Table(columns, rows, title=sweep.name)


def show_status(sweep: SweepSettings, records: Sequence[TrialRecord], console: Console) -> None:
    """Prints the trials of a sweep as a table, and a line on how far the sweep is."""
    sweep_state = SweepState(criteria_of(sweep), sweep.resources.workers_per_trial, records)
    console.print(rich_table(status_table(sweep, records, sweep_state)))
    say(
        console,
        f"{sweep_state.ended} of {sweep.search.trials} trials done, {sweep_state.counts['stopped']} stopped,"
        f" {sweep_state.counts['failed']} failed; {sweep_state.worker_hours:.2f} worker-hours; hypervolume"
        f" {sweep_state.reported_front.hypervolume:.4f}",
    )


def show_front(view: SweepView, console: Console) -> None:
    """Prints the front with the baselines below it."""
    names = [objective.name for objective in view.objectives]
    probes = [title for title in probe_titles(view) if title in SHORT]
    table = front_table(view).select("trial", *names, *probes, "parameters")
    title = f"{view.sweep.name}: Pareto front on the test part, hypervolume {view.front.hypervolume:.4f}"
    console.print(rich_table(replace(table, title=title)))


def _rungs_on_front(front: Front) -> dict[str, list[int]]:
    # A trial may have several rungs on the front.
    rungs: dict[str, list[int]] = {}
    for member in front.members:
        rungs.setdefault(member.record.trial_id, []).append(member.rung)
    return {name: sorted(numbers) for name, numbers in rungs.items()}
