"""The report of a sweep: one HTML file without external resources, and a still picture."""

import json
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from orchestrator.pareto.front import front_as_json
from orchestrator.pareto.objectives import objectives_of
from orchestrator.pareto.sweep_view import SweepView, read_view
from orchestrator.report.audit_table import audit_columns
from orchestrator.report.sections.audit_section import AUDITS
from orchestrator.report.sections.bands_section import BANDS
from orchestrator.report.sections.confirmation_section import CONFIRMATION
from orchestrator.report.sections.stopping_section import EARLY_STOPPING
from orchestrator.report.sections.trial_sections import (
    FAILED,
    FRONT,
    HYPERVOLUME,
    IMPORTANCE,
    MEMBERS,
    PARALLEL,
    SQUEEZING,
)
from orchestrator.report.still_picture import draw_picture
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.provenance import redacted
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import Status
from search_spaces.settings.sweep_settings import SweepSettings
from trainables.durable_files import replaced_file, write_text

HTML_NAME, PICTURE_NAME = "report.html", "front.png"

SECTIONS = (
    FRONT,
    MEMBERS,
    SQUEEZING,
    BANDS,
    HYPERVOLUME,
    PARALLEL,
    IMPORTANCE,
    AUDITS,
    CONFIRMATION,
    EARLY_STOPPING,
    FAILED,
)
"""The sections of the report, in order."""

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222;
       max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: .2rem; } h2 { margin-top: 2.6rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
p { max-width: 75ch; } .wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 14px; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid #e3e3e3; vertical-align: top; }
td { font-variant-numeric: tabular-nums; } td:last-child { min-width: 26rem; }
td:first-child { white-space: nowrap; } tfoot td { font-style: italic; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 13px; }
"""


def write_report(folder: Path, view: SweepView) -> tuple[Path, Path]:
    """Writes `report.html` and `front.png`.

    Args:
        folder: Where to write; created when missing. Older files of these names are replaced once the new
            ones are complete.
        view: The sweep, at any stage: also a sweep without a finished trial has a report.

    Returns:
        The HTML file and the picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    html, picture = folder / HTML_NAME, folder / PICTURE_NAME
    # A browser or MLflow may read the files while they are written, so complete files are renamed.
    write_text(html, _page(view))
    with replaced_file(picture) as partial:
        draw_picture(partial, view)
    return html, picture


def _page(view: SweepView) -> str:
    title = f"{view.sweep.name}: forgetting against utility"
    # Settings may hold addresses with passwords.
    settings = redacted(json.dumps(view.sweep.model_dump(mode="json"), indent=1))
    body = "\n".join(filter(None, (section.html(view) for section in SECTIONS)))
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


def _summary(view: SweepView) -> str:
    counts = Counter(record.status for record in view.records)
    reference = ", ".join(f"{objective.name} {objective.reference:g}" for objective in view.objectives)
    statuses: tuple[Status, ...] = ("finished", "stopped", "failed", "running")
    trials = ", ".join(f"{counts[status]} {status}" for status in statuses if counts[status])
    return (
        f"{trials or 'no trial yet'}. {len(view.front.members)} on the front, hypervolume"
        f" {view.front.hypervolume:.4f} against the reference point {reference}."
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
