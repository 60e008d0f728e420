"""The report's sections on the trials and their front."""

from html import escape

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.figure_data import points_of, squeeze_groups
from orchestrator.report.interactive_figures import (
    figure_html,
    front_figure,
    hypervolume_figure,
    importance_figure,
    parallel_figure,
    squeeze_figure,
)
from orchestrator.report.sections.section import Section
from orchestrator.report.tables import failed_table, front_table
from search_spaces.catalogue.metric_catalogue import METRICS


def _front(view: SweepView) -> str:
    if not points_of(view) and not view.baselines:
        return ""
    names = [objective.name for objective in view.objectives if objective.name in METRICS]
    metrics = "; ".join(f"{name}: {METRICS[name].description}" for name in names)
    described = f"<p>{escape(metrics)}.</p>\n" if metrics else ""
    return f"{described}{figure_html('front', front_figure(view))}"


def _members(view: SweepView) -> str:
    if not points_of(view):
        return ""
    names = [objective.name for objective in view.objectives]
    validation = (f"validation {name}" for name in names)
    return front_table(view).select("trial", "method", *names, *validation, "time", "parameters").html()


def _squeezing(view: SweepView) -> str:
    groups = squeeze_groups(view)
    return figure_html("squeeze", squeeze_figure(view, groups)) if groups else ""


def _hypervolume(view: SweepView) -> str:
    return figure_html("hypervolume", hypervolume_figure(view)) if points_of(view) else ""


def _parallel(view: SweepView) -> str:
    return figure_html("parallel", parallel_figure(view)) if points_of(view) else ""


def _importance(view: SweepView) -> str:
    return figure_html("importance", importance_figure(view)) if any(view.importances.values()) else ""


def _failed(view: SweepView) -> str:
    table = failed_table(view)
    return table.html() if table.rows else ""


FRONT = Section(
    "Pareto front",
    "The figure shows every trial at its end, on the test part of the evaluation items; a trial that was"
    " stopped at a dominated rung was not measured there. Large, outlined marks are the front: it was chosen"
    " on the validation part, which the search sees, and is reported on the test part, which the search does"
    " not see. Every rung is a candidate: t0007@2 is trial t0007 at its second rung, t0007 is its end.",
    _front,
)
MEMBERS = Section("Members of the front", "The baselines stand below for comparison.", _members)
SQUEEZING = Section(
    "Squeezing",
    "Probability of the forgotten facts on unseen questions: in the wording that was unlearned (canonical),"
    " and in all other wordings of the same facts (rephrased). Thick lines are medians, thin lines are single"
    " trials; the dotted line is the rephrased mass before unlearning. Where the rephrased line rises above"
    " the dotted one while the canonical line falls, mass was squeezed into rephrasings: the model still"
    " states the fact, in other words. The lower row shows the same without time: the ideal path goes"
    " straight down to the lower right corner.",
    _squeezing,
)
HYPERVOLUME = Section(
    "Hypervolume over trials",
    "Volume between the front and the reference point after each trial with a result. The curve may fall a"
    " little, because the front is chosen on other items than those on which it is measured.",
    _hypervolume,
)
PARALLEL = Section(
    "Parallel coordinates",
    "One line per trial through everything that was searched. Drag along an axis to select trials. A line at"
    " 'off' means that the trial does not have this setting.",
    _parallel,
)
IMPORTANCE = Section(
    "Importance",
    "How much of each objective's variation over the trials goes with each setting. With few trials this is a"
    " lead, not a proof.",
    _importance,
)
FAILED = Section("Failed trials", "Failed trials never reach the front.", _failed)
