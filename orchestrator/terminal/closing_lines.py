"""The last lines that a run prints."""

import json
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from orchestrator.pareto.front import Front
from orchestrator.pareto.objectives import objective_values
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.storage.provenance import redacted
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.tracking.tracking_store import EXPERIMENT, VIEW_FILE

MOST_MEMBERS_SHOWN = 12
"""Lines of the front at the end of a run; `lethe front` shows all."""


def closing_lines(view: SweepView, folder: SweepFolder, uri: str) -> list[str]:
    """Returns the last lines of a run: the front, what failed, where the report is, how to open MLflow."""
    sweep, records, front = view.sweep, view.records, view.front
    failed = [record for record in records if record.status == "failed"]
    stopped = sum(record.status == "stopped" for record in records)
    lines = [
        f"Pareto front on the test part: {_members(front)} of {len(records)} trials, hypervolume"
        f" {front.hypervolume:.4f}"
    ]
    lines += [
        f"  {member.name}: {_values(dict(member.objectives))}"
        for member in front.members[:MOST_MEMBERS_SHOWN]
    ]
    if len(front.members) > MOST_MEMBERS_SHOWN:
        lines.append(f"  and {len(front.members) - MOST_MEMBERS_SHOWN} more")
    for name, metrics in view.baselines.items():
        values = objective_values(metrics, view.objectives, "test")
        lines += [f"  {name} model: {_values(values)}"] if values else []
    if stopped:
        lines.append(
            f"{stopped} trial{'s' * (stopped > 1)} stopped at a rung before the last: see `lethe status"
            f" {sweep.name}`"
        )
    if failed:
        lines.append(
            f"{len(failed)} trial{'s' * (len(failed) > 1)} failed; the first, {failed[0].trial_id}:"
            f" {failed[0].reason}"
        )
    # The default folder needs no option; another one is quoted, so that the line can be pasted.
    storage = "" if folder.root == Path("lethe-runs").resolve() else f" --storage {quote(str(folder.root))}"
    lines.append(f"table: lethe front {sweep.name}{storage}")
    lines.append(f"report: {folder.path / 'report.html'} (picture: {folder.path / 'front.png'})")
    lines.append(_how_to_open_mlflow(sweep.name, folder, uri))
    return lines


def _how_to_open_mlflow(name: str, folder: SweepFolder, uri: str) -> str:
    """Returns how to open MLflow, on the saved view where there is one."""
    file = folder.path / VIEW_FILE
    view = json.loads(file.read_text()) if file.is_file() else {}
    # A view that was saved on another server has no meaning on this one.
    path = view["path"] if view.get("uri") == redacted(uri) else ""
    if not uri.startswith("http"):
        return (
            f"MLflow: mlflow ui --backend-store-uri {quote(redacted(uri))}, then open"
            f" http://127.0.0.1:5000{path}"
        )
    if not path:
        return f"MLflow: {redacted(uri)}, experiment {EXPERIMENT}, run {name}"
    parts = urlsplit(uri)
    # The name and password stay out of terminals and logs; a browser prompts for them.
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}{path}"
    return f"MLflow: {address} (experiment {EXPERIMENT}, run {name})"


def _members(front: Front) -> str:
    trials = len(front.trial_ids)
    rungs = f" ({len(front.members)} rungs)" if len(front.members) != trials else ""
    return f"{trials}{rungs}"


def _values(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
