"""The contents of MLflow runs: tags, parameters and metrics of trials, confirmations and audits."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.storage.followup_records import Audit, Confirmation
from orchestrator.storage.provenance import as_text
from orchestrator.storage.trial_records import TrialRecord

TAG_CHARACTERS = 7900
"""Longest value of a run's tag, a little below MLflow's limit of 8000 characters."""


@dataclass(frozen=True)
class SideRun:
    """A child run of a sweep that is not a trial of the search."""

    name: str
    kind: str
    """`confirmation` or `audit`."""
    metrics: Mapping[str, float]
    step: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False


def confirmation_run(confirmation: Confirmation) -> SideRun:
    """Builds the run of a confirmation: a repetition of a front member under another seed."""
    tags = {"lethe.confirms": confirmation.member, "seed": str(confirmation.seed)}
    tags |= (
        {"status": "failed", "reason": confirmation.reason} if confirmation.reason else {"status": "finished"}
    )
    # Steps of metrics count from 0, rungs from 1.
    failed = confirmation.reason is not None
    return SideRun(
        confirmation.name, "confirmation", confirmation.metrics, confirmation.rung - 1, tags, failed
    )


def audit_run(audit: Audit) -> SideRun:
    """Builds the run of an audit; audits of one model with other probe settings are separate runs."""
    # The hash of the probe settings is part of the name, which keeps the runs apart.
    tags = {"lethe.audits": audit.name, "lethe.audit_way": audit.settings_hash, "status": "finished"}
    metrics = {**audit.metrics, "hidden_facts": float(len(audit.hidden)), "facts": float(audit.facts)}
    return SideRun(
        f"audit {audit.name} {audit.settings_hash[:6]}",
        "audit",
        metrics,
        0 if audit.rung is None else audit.rung - 1,
        tags,
    )


def trial_tags(record: TrialRecord, front_rungs: Sequence[int], method: str, beliefs: str) -> dict[str, str]:
    """Builds the tags of a trial's run: method, beliefs, status, and its rungs on the current front."""
    tags = {
        "method": method,
        "beliefs": beliefs,
        "status": record.status,
        "pareto.front": str(bool(front_rungs)).lower(),
    }
    tags["pareto.rungs"] = ", ".join(map(str, front_rungs)) or "none"
    return tags | ({"reason": record.reason} if record.reason else {})


def metrics_by_rung(record: TrialRecord, worker_seconds: float) -> list[dict[str, float]]:
    """Returns the metrics of every rung; the trial's times are added to its last rung once it has ended."""
    rungs = [dict(rung) for rung in record.rungs]
    if record.ended:
        # A trial that failed before its first rung has times too.
        rungs = rungs or [{}]
        rungs[-1] |= {"worker_seconds": worker_seconds}
        if record.duration_s is not None:
            rungs[-1]["duration_s"] = record.duration_s
    return rungs


def timed_metrics(
    record: TrialRecord, rungs: Sequence[Mapping[str, float]]
) -> list[tuple[str, float, int, int]]:
    """Converts the metrics of rungs to tuples of key, value, step and Unix time in ms.

    The time is the current one for a running trial. The rungs of an ended trial are spread evenly over its
    duration, because it may have ended long before its metrics are sent.
    """
    metrics = []
    for step, rung in enumerate(rungs):
        when = now_ms()
        if record.started_at is not None and record.finished_at is not None:
            when = round(
                1000
                * (record.started_at + (record.finished_at - record.started_at) * (step + 1) / len(rungs))
            )
        metrics += [(key, value, step, when) for key, value in rung.items()]
    return metrics


def settings_and_limits(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Splits a sweep's settings into MLflow parameters and tags.

    MLflow cannot change a parameter. Settings that may change when a sweep is resumed therefore become tags
    (number of trials, budget), or are left to the artifact sweep.json (the `tracking` block).

    Returns:
        The nested settings for parameters, and the tags.
    """
    searched = {key: value for key, value in config["search"].items() if key != "trials"}
    fixed = {key: value for key, value in config.items() if key not in ("budget", "tracking")} | {
        "search": searched
    }
    return fixed, {"lethe.trials": str(config["search"]["trials"]), "lethe.budget": as_text(config["budget"])}


def note(markdown: str) -> str:
    """Shortens a Markdown leaderboard to fit into a tag, by whole lines."""
    if len(markdown) <= TAG_CHARACTERS:
        return markdown
    more = "\n\nMore is in report.html."
    return markdown[: markdown.rindex("\n", 0, TAG_CHARACTERS - len(more))] + more


def now_ms() -> int:
    """Returns the current Unix time in ms."""
    return round(time.time() * 1000)
