"""Tables of a sweep for the terminal, and the same as JSON and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.pareto.front import Front
from orchestrator.pareto.objectives import criteria_of, objective_values
from orchestrator.report.audit_table import SHORT, titles_of
from orchestrator.report.sections.stopping_statistics import stopping_statistics
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.terminal.live_progress import duration, seconds_left
from search_spaces.settings.sweep_settings import SweepSettings


def status_json(sweep: SweepSettings, records: Sequence[TrialRecord]) -> dict[str, Any]:
    """The state of a sweep as plain data: counts, hypervolume, time left, and every trial."""
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


def show_status(sweep: SweepSettings, records: Sequence[TrialRecord], console: Console) -> None:
    """Print the trials of a sweep as a table, and a line on what is left."""
    criteria = criteria_of(sweep)
    objectives, sweep_state = (
        criteria.objectives,
        SweepState(criteria, sweep.resources.workers_per_trial, records),
    )
    rungs = _rungs_on_front(sweep_state.reported_front)
    table = Table(title=sweep.name)
    for column in (
        "trial",
        "status",
        *(f"{objective.name} ({objective.direction})" for objective in objectives),
        "time",
        "parameters",
    ):
        table.add_column(column, overflow="fold")
    for record in records:
        values = objective_values(record.metrics, objectives, "test") or {}
        status = f"{record.status}: {record.reason}" if record.reason else record.status
        if record.trial_id in rungs:
            status = f"on the front at rung {', '.join(map(str, rungs[record.trial_id]))}"
        shown = (
            f"{values[objective.name]:.4f}" if objective.name in values else "" for objective in objectives
        )
        table.add_row(
            record.trial_id,
            status,
            *shown,
            duration(record.duration_s) if record.duration_s else "",
            params_line(record.params),
        )
    console.print(table)
    counts = (
        f"{sweep_state.ended} of {sweep.search.trials} trials done, {sweep_state.counts['stopped']} stopped,"
        f" {sweep_state.counts['failed']} failed"
    )
    hours = f"{sweep_state.worker_hours:.2f} worker-hours"
    console.print(
        f"{counts}; {hours}; hypervolume {sweep_state.reported_front.hypervolume:.4f}", highlight=False
    )


def show_front(front: Mapping[str, Any], console: Console) -> None:
    """Print the front with the original and the retrained model under it.

    Args:
        front: What `orchestrator.pareto.front.front_json` gives.
        console: Where to.
    """
    table = Table(
        title=f"{front['sweep']}: Pareto front on the test part, hypervolume {front['hypervolume']:.4f}"
    )
    names = [objective["name"] for objective in front["objectives"]]
    table.add_column("trial")
    for objective in front["objectives"]:
        table.add_column(f"{objective['name']} ({objective['direction']})")
    audits: Mapping[str, Mapping[str, float]] = front.get("audits", {})
    probes = [title for title in titles_of(audits) if title in SHORT]  # `lethe audit` shows them all
    for title in probes:
        table.add_column(title)
    table.add_column("parameters", overflow="fold")

    def audited(name: str) -> list[str]:
        cells = audits.get(name, {})
        return [f"{cells[title]:.3g}" if title in cells else "" for title in probes]

    for member in front["front"]:
        values = (f"{member['objectives'][name]:.4f}" for name in names)
        table.add_row(member["name"], *values, *audited(member["name"]), params_line(member["params"]))
    table.add_section()
    for name, measured in front["baselines"].items():
        if measured is not None:
            table.add_row(name, *(f"{measured[objective]:.4f}" for objective in names), *audited(name), "")
    console.print(table)


def front_csv(front: Mapping[str, Any]) -> str:
    """The front as CSV: one row per member and baseline, a column per objective and parameter."""
    names = [objective["name"] for objective in front["objectives"]]
    audits = front.get("audits", {})
    probes = titles_of(audits)
    keys = sorted({key for member in front["front"] for key in member["params"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial_id", *names, "rung", *keys, *probes])
    for member in front["front"]:
        writer.writerow(
            [
                member["trial_id"],
                *(member["objectives"][name] for name in names),
                member["rung"],
                *(member["params"].get(key, "") for key in keys),
                *(audits.get(member["name"], {}).get(title, "") for title in probes),
            ]
        )
    for name, values in front["baselines"].items():
        if values is not None:
            told = (audits.get(name, {}).get(title, "") for title in probes)
            writer.writerow(
                [name, *(values[objective] for objective in names), "", *("" for _ in keys), *told]
            )
    return text.getvalue()


def params_line(params: Mapping[str, Any]) -> str:
    """Parameters in one line, numbers to three digits."""
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    )


def _rungs_on_front(front: Front) -> dict[str, list[int]]:
    rungs: dict[str, list[int]] = {}
    for member in front.members:
        rungs.setdefault(member.record.trial_id, []).append(member.rung)
    return {name: sorted(numbers) for name, numbers in rungs.items()}
