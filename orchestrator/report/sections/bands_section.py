"""The report's section on likelihood bands: figure 2 of the paper for every loss of the sweep."""

import statistics
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.figure_data import (
    BELIEF_NAMES,
    group_name,
    method_and_beliefs,
)
from orchestrator.report.interactive_figures import figure_html, styled
from orchestrator.report.palette import CANONICAL_COLOUR, INK, REPHRASED_COLOUR
from orchestrator.report.sections.section import Section
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.catalogue.method_catalogue import METHODS

_LINES = {
    "target": (CANONICAL_COLOUR, "solid", 3.5),
    "rephrasing": (REPHRASED_COLOUR, "solid", 3.5),
    "high band": (INK, "solid", 2.0),
    "mid band": (INK, "dash", 2.0),
    "low band": (INK, "dot", 2.0),
}
_COLUMNS = 3
_ROW_HEIGHT = 300


def metric_of(line: str) -> str:
    """Returns the key of a line's values in the metrics of a rung."""
    return f"bands/{line.replace(' ', '_')}_nats"


def groups_by_band(view: SweepView) -> dict[tuple[str, str], list[TrialRecord]]:
    """Returns the trials that measured bands by method and beliefs, in the catalogue's order."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {
        (method, beliefs): [] for method in METHODS for beliefs in BELIEF_NAMES
    }
    for record in view.records:
        if record.status in ("finished", "stopped") and any(
            metric_of("target") in rung for rung in record.rungs
        ):
            groups[method_and_beliefs(view.sweep, record)].append(record)
    return {group: records for group, records in groups.items() if records}


def median_line(start: Mapping[str, float], records: Sequence[TrialRecord], line: str) -> list[float]:
    """Returns a line's medians at every rung that any of the trials reached.

    The first value is that before unlearning, where it was measured.
    """
    key, values = metric_of(line), []
    if key in start:
        values.append(start[key])
    for place in range(max(len(record.rungs) for record in records)):
        # Trials may have stopped before this rung: the median is over those that reached it.
        here = [
            record.rungs[place][key]
            for record in records
            if place < len(record.rungs) and key in record.rungs[place]
        ]
        if here:
            values.append(statistics.median(here))
    return values


def bands_content(view: SweepView) -> str:
    """Returns the figure; empty where no trial measured bands."""
    groups = groups_by_band(view)
    return figure_html("bands", bands_figure(view, groups)) if groups else ""


def bands_figure(view: SweepView, groups: Mapping[tuple[str, str], Sequence[TrialRecord]]) -> go.Figure:
    """Draws a panel per loss, on common axes.

    Args:
        view: The sweep.
        groups: Trials by method and beliefs, at least one group.
    """
    columns = min(_COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    titles = [
        f"{group_name(*group)} ({len(records)} trial{'s' * (len(records) > 1)})"
        for group, records in groups.items()
    ]
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.25 / rows,
    )
    start = view.baselines.get("original", {})
    for number, records in enumerate(groups.values()):
        row, column = number // columns + 1, number % columns + 1
        for line, (colour, dash, width) in _LINES.items():
            values = median_line(start, records, line)
            if values:
                style = {"color": colour, "dash": dash, "width": width}
                trace = go.Scatter(
                    y=values,
                    mode="lines+markers",
                    name=line,
                    legendgroup=line,
                    showlegend=number == 0,
                    line=style,
                )
                figure.add_trace(trace, row=row, col=column)
        figure.update_xaxes(title="rung", dtick=1, row=row, col=column)
    figure.update_yaxes(title="nats per answer", col=1)
    return styled(figure, 80 + _ROW_HEIGHT * rows)


BANDS = Section(
    "Likelihood bands",
    "Mean log-probability of whole answers to the first forget prompts, in nats, at every rung, starting"
    " before unlearning (0); medians over the trials of a loss. The bands hold what else the original model"
    " would have said, found by beam search and split at 20 and 60 % by likelihood. Squeezing: the target"
    " falls, and the high band and the rephrasings rise in its place.",
    bands_content,
)
