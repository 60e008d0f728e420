"""The report of a sweep: one HTML file that needs nothing else, and a still picture of it."""

import json
import os
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from orchestrator.pareto.front import front_as_json
from orchestrator.pareto.objectives import objectives_of
from orchestrator.pareto.sweep_view import SweepView, read_view
from orchestrator.report.audit_table import audit_columns
from orchestrator.report.figure_data import points_of, squeeze_groups
from orchestrator.report.interactive_figures import (
    front_figure,
    hypervolume_figure,
    importance_figure,
    parallel_figure,
    squeeze_figure,
)
from orchestrator.report.sections.audit_section import EXPLANATION as AUDIT
from orchestrator.report.sections.audit_section import audit_section
from orchestrator.report.sections.bands_section import EXPLANATION as BANDS
from orchestrator.report.sections.bands_section import bands_section
from orchestrator.report.sections.confirmation_section import EXPLANATION as CONFIRMATION
from orchestrator.report.sections.confirmation_section import confirmation_section
from orchestrator.report.sections.stopping_section import EXPLANATION as EARLY_STOPPING
from orchestrator.report.sections.stopping_section import stopping_section
from orchestrator.report.still_picture import draw_picture
from orchestrator.report.tables import failed_table, front_table
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.provenance import redacted
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.catalogue.metric_catalogue import METRICS
from search_spaces.settings.sweep_settings import SweepSettings

HTML_NAME, PICTURE_NAME = "report.html", "front.png"
_SQUEEZING = """Probability of the forgotten facts on unseen questions: in the wording that was unlearned
(canonical), and in all other wordings of the same facts (rephrased). Thick lines are medians, thin ones
single trials; the dotted line is the rephrased mass before unlearning. Where the rephrased line rises above
it while the canonical one falls, mass was squeezed into rephrasings: the fact is still told, in other words.
The lower row shows the same without time: the ideal goes straight down to the lower right corner."""
_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222;
       max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.6rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
p { max-width: 75ch; } .wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
td { font-variant-numeric: tabular-nums; } td:last-child { min-width: 26rem; }
td:first-child { white-space: nowrap; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 13px; }
"""


def write_report(folder: Path, view: SweepView) -> tuple[Path, Path]:
    """Write `report.html` and `front.png`.

    Args:
        folder: Where to; created when missing. Older files of these names are replaced once the new ones are
            whole.
        view: The sweep, at any stage: also one without a finished trial has a report.

    Returns:
        The HTML file and the picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    html, picture = folder / HTML_NAME, folder / PICTURE_NAME
    partial = html.with_name(f"{html.name}.{os.getpid()}.partial")
    partial.write_text(_page(view), encoding="utf-8")
    partial.replace(html)
    partial = picture.with_name(f"{picture.name}.{os.getpid()}.partial")
    draw_picture(partial, view)
    partial.replace(picture)
    return html, picture


def _page(view: SweepView) -> str:
    title = f"{view.sweep.name}: forgetting against utility"
    settings = redacted(json.dumps(view.sweep.model_dump(mode="json"), indent=1))
    body = "\n".join(
        _section(heading, text, content) for heading, text, content in _sections(view) if content
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_CSS}</style>
<script>{get_plotlyjs()}</script></head><body>
<h1>{escape(title)}</h1>
<p>{escape(view.sweep.description)}</p>
<p>{escape(_summary(view))}</p>
{body}
<h2>Settings</h2><details><summary>The resolved sweep</summary><pre>{escape(settings)}</pre></details>
</body></html>
"""


def _sections(view: SweepView) -> list[tuple[str, str, str]]:
    """Heading, explanation and content; a section without content is left out."""
    drawn = bool(points_of(view))
    groups = squeeze_groups(view)
    what = "; ".join(
        f"{objective.name}: {METRICS[objective.name].description}"
        for objective in view.objectives
        if objective.name in METRICS
    )
    return [
        (
            "Pareto front",
            (
                "Every trial at its end, on the test part of the evaluation items; one that was stopped at a"
                " dominated rung was not measured there. Large, outlined marks are the front: chosen on the"
                " validation part, which the search sees, and reported on the test part, which it does not."
                " Every rung is a candidate: t0007@2 is trial t0007 at its second rung, t0007 its end."
                f" {what}."
            ),
            _drawing("front", front_figure(view)) if drawn or view.baselines else "",
        ),
        (
            "Members of the front",
            "Original and retrained models stand below for comparison.",
            front_table(view) if drawn else "",
        ),
        (
            "Squeezing",
            _SQUEEZING,
            _drawing("squeeze", squeeze_figure(view, groups)) if groups else "",
        ),
        ("Likelihood bands", BANDS, bands_section(view, _drawing)),
        (
            "Hypervolume over trials",
            (
                "Volume between the front and the reference point after each trial with a result. It may dip:"
                " the front is chosen on other items."
            ),
            _drawing("hypervolume", hypervolume_figure(view)) if drawn else "",
        ),
        (
            "Parallel coordinates",
            (
                "One line per trial through everything that was searched. Drag along an axis to select"
                " trials. A line at 'off' means that the trial does not have this setting."
            ),
            _drawing("parallel", parallel_figure(view)) if drawn else "",
        ),
        (
            "Importance",
            (
                "How much of each objective's variation over the trials goes with each setting. A lead, not a"
                " proof, with few trials."
            ),
            (_drawing("importance", importance_figure(view)) if any(view.importances.values()) else ""),
        ),
        ("Is it really forgotten?", AUDIT, audit_section(view, _drawing)),
        ("Confirmation", CONFIRMATION, confirmation_section(view, _drawing)),
        ("Early stopping", EARLY_STOPPING, stopping_section(view, _drawing)),
        ("Failed trials", "They never reach the front.", failed_table(view)),
    ]


def _section(heading: str, text: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2><p>{escape(text)}</p>\n{content}</section>"


def _drawing(name: str, figure: go.Figure) -> str:
    # Plotly puts a button on every figure that uploads its data to Plotly's cloud.
    config = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)


def _summary(view: SweepView) -> str:
    counts = {
        status: sum(record.status == status for record in view.records)
        for status in ("finished", "stopped", "failed", "running")
    }
    reference = ", ".join(f"{objective.name} {objective.reference:g}" for objective in view.objectives)
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trial yet"
    return (
        f"{told}. {len(view.front.members)} on the front, hypervolume {view.front.hypervolume:.4f} against"
        f" the reference point {reference}."
    )


def sweep_front(view: SweepView) -> dict[str, Any]:
    """Returns the front as `lethe front --json` prints it, with the baselines and what audits found."""
    counts = Counter(record.status for record in view.records)
    return front_as_json(view.sweep.name, view.front, counts, view.baselines) | {
        "audits": {audit.name: audit_columns(audit) for audit in view.audits}
    }


def study_view(
    sweep: SweepSettings, folder: SweepFolder, study: Study, sweep_state: SweepState | None = None
) -> SweepView:
    """Reads everything that the report shows.

    Args:
        sweep: Settings with objectives filled in.
        folder: The sweep's files.
        study: The study, with its trials and importances.
        sweep_state: The driver's state of the same trials, so that the front is not built again.
    """
    return read_view(
        folder,
        sweep,
        study.records(),
        importances={objective.name: study.importances(objective.name) for objective in objectives_of(sweep)},
        front=None if sweep_state is None else sweep_state.reported_front,
        hypervolumes=None if sweep_state is None else tuple(sweep_state.hypervolumes),
    )
