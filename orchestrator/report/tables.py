"""Tables of the report: front members, baselines and failed trials as HTML, and the leaderboard that MLflow
shows as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.audit_table import titles_of
from orchestrator.report.figure_data import baseline_points, better, group_name, method_and_beliefs


def leaderboard(front: Mapping[str, Any]) -> str:
    """The front and the baselines as a Markdown table.

    Args:
        front: What `orchestrator.pareto.front.front_json` gives, with `audits` where there are any.

    Returns:
        Markdown; a sentence in place of the table while the front is empty.
    """
    head = (
        f"**Hypervolume {front['hypervolume']:.4f}** over {front['trials']} trials, {front['stopped']}"
        f" stopped, {front['failed']} failed. Values are of the test part."
    )
    names = [objective["name"] for objective in front["objectives"]]
    audits: Mapping[str, Mapping[str, float]] = front.get("audits", {})
    probes = titles_of(audits)

    def row(name: str, shown: str, values: Mapping[str, float], params: str) -> list[str]:
        cells = audits.get(name, {})
        return [
            shown,
            *_numbers(values, names),
            *(f"{cells[title]:.3g}" if title in cells else "" for title in probes),
            params,
        ]

    rows = [
        row(member["name"], member["name"], member["objectives"], _params(member["params"]))
        for member in front["front"]
    ]
    rows += [row(name, f"*{name}*", values, "") for name, values in front["baselines"].items() if values]
    if not rows:
        return f"{head}\n\nNo trial is on the front yet."
    titles = [
        "trial",
        *(f"{objective['name']} ({objective['direction']})" for objective in front["objectives"]),
        *probes,
        "parameters",
    ]
    lines = [titles, ["---"] * len(titles), *rows]
    # A bar inside a cell would start a new one.
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{head}\n\n{table}"


def front_table(view: SweepView) -> str:
    """Members of the front with their settings, and under them the original and retrained models."""
    front = view.front
    names = [objective.name for objective in front.objectives]
    titles = [
        "trial",
        "method",
        *(f"{objective.name} ({better(objective)})" for objective in front.objectives),
    ]
    titles += [*(f"validation {name}" for name in names), "time", "parameters"]
    rows = []
    for member in front.members:
        record = member.record
        time = "" if record.duration_s is None else f"{record.duration_s:.0f} s"
        group = group_name(*method_and_beliefs(view.sweep, record))
        values = [*_numbers(member.objectives, names), *_numbers(member.validation, names)]
        rows.append([member.name, group, *values, time, _params(record.params)])
    for name, baseline in baseline_points(view).items():
        rows.append([f"{name} model", "", *_numbers(baseline, names), *("" for _ in names), "", ""])
    return html_table(titles, rows)


def failed_table(view: SweepView) -> str:
    """Failed trials with their reasons; empty when none failed."""
    failed = [record for record in view.records if record.status == "failed"]
    rows = [[record.trial_id, record.reason or "", _params(record.params)] for record in failed]
    return html_table(["trial", "reason", "parameters"], rows) if rows else ""


def html_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text cells."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _numbers(values: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return [f"{values[name]:.4f}" for name in names]


def _params(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in params.items()
    )
