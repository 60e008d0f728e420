"""What runs are told, in the shapes that MLflow takes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.storage.followup_records import Audit, Confirmation
from orchestrator.storage.provenance import as_text
from orchestrator.storage.trial_records import TrialRecord

TAG_CHARACTERS = 7900
"""A little under MLflow's limit of a run's tag."""


@dataclass(frozen=True)
class SideRun:
    """A child run that is no trial of the search."""

    name: str
    kind: str
    """`confirmation` or `audit`."""
    metrics: Mapping[str, float]
    step: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False


def confirmation_run(confirmation: Confirmation) -> SideRun:
    """A repetition of a member of the front under another seed."""
    tags = {"lethe.confirms": confirmation.member, "seed": str(confirmation.seed)}
    tags |= (
        {"status": "failed", "reason": confirmation.reason} if confirmation.reason else {"status": "finished"}
    )
    failed = confirmation.reason is not None
    return SideRun(
        confirmation.name, "confirmation", confirmation.metrics, confirmation.rung - 1, tags, failed
    )


def audit_run(audit: Audit) -> SideRun:
    """What a model still knows; audits made in other ways are runs of their own."""
    tags = {"lethe.audits": audit.name, "lethe.audit_way": audit.way, "status": "finished"}
    metrics = {**audit.metrics, "hidden_facts": float(len(audit.hidden)), "facts": float(audit.facts)}
    return SideRun(
        f"audit {audit.name} {audit.way[:6]}",
        "audit",
        metrics,
        0 if audit.rung is None else audit.rung - 1,
        tags,
    )


def trial_tags(record: TrialRecord, front_rungs: Sequence[int], method: str, beliefs: str) -> dict[str, str]:
    """Tags of a trial's run: what it did, how it stands, and which of its rungs are on the front now."""
    tags = {
        "method": method,
        "beliefs": beliefs,
        "status": record.status,
        "pareto.front": str(bool(front_rungs)).lower(),
    }
    tags["pareto.rungs"] = ", ".join(map(str, front_rungs)) or "none"
    return tags | ({"reason": record.reason} if record.reason else {})


def metrics_by_rung(record: TrialRecord, worker_seconds: float) -> list[dict[str, float]]:
    """Metrics of every rung; those of the trial's end count to its last rung."""
    rungs = [dict(rung) for rung in record.rungs]
    if record.ended:
        rungs = rungs or [{}]
        rungs[-1] |= {"worker_seconds": worker_seconds}
        if record.duration_s is not None:
            rungs[-1]["duration_s"] = record.duration_s
    return rungs


def timed_metrics(
    record: TrialRecord, rungs: Sequence[Mapping[str, float]]
) -> list[tuple[str, float, int, int]]:
    """Metrics with a time each: now, or evenly spread over a trial that has ended, which may be long ago."""
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
    """A sweep's settings as parameters, which MLflow cannot change, and as tags what a resume may raise:
    trials and budget.

    What MLflow is told beside results may change too, and is in sweep.json.
    """
    searched = {key: value for key, value in config["search"].items() if key != "trials"}
    fixed = {key: value for key, value in config.items() if key not in ("budget", "tracking")} | {
        "search": searched
    }
    return fixed, {"lethe.trials": str(config["search"]["trials"]), "lethe.budget": as_text(config["budget"])}


def note(markdown: str) -> str:
    """A leaderboard that fits into a tag, cut between two lines."""
    if len(markdown) <= TAG_CHARACTERS:
        return markdown
    more = "\n\nMore is in report.html."
    return markdown[: markdown.rindex("\n", 0, TAG_CHARACTERS - len(more))] + more


def now_ms() -> int:
    """Unix time in ms."""
    return round(time.time() * 1000)
