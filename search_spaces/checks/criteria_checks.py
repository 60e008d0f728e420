"""Checks the objectives, constraints and early-stopping floors of a sweep against the available metrics."""

from collections.abc import Iterator

from search_spaces.catalogue.available_metrics import available_metrics, given
from search_spaces.catalogue.metric_catalogue import METRICS, MetricInfo
from search_spaces.settings.sweep_settings import BoundSettings, ObjectiveSettings, SweepSettings
from search_spaces.user_errors import UserError, did_you_mean

# What a metric needs, and how to provide it: the end of a sentence that begins with "it needs".
WHY_MISSING = {
    "gibberish": "a judge of answers: set evaluation.fluency to gibberish",
    "perplexity": "answers scored by the original model: set evaluation.fluency to perplexity",
    "gradient_norm": "backward passes: set evaluation.gradient_norm to true",
    "probe": "probes at rungs: name some in evaluation.probes",
    "leak": "drawn answers: put leak into evaluation.probes",
    "paraphrase": (
        "other wordings of the questions: put paraphrase into evaluation.probes, and give"
        " evaluation.probe.paraphrase.file"
    ),
    "prefix": "questions behind prefixes: put prefix into evaluation.probes",
    "relearn": "fine-tuning at rungs: put relearn into evaluation.probes",
    "quantise": "rounded weights: put quantise into evaluation.probes",
    "judge": "a judge: put judge into evaluation.probes, and give evaluation.probe.judge.url",
    "retrained": "a retrained model: give model.retrained or model.base",
    "paraphrases": "other wordings of the forget answers",
    "retain_paraphrases": "other wordings of the retain answers",
    "perturbed": "wrong answers to compare with",
    "utility_sets": "real authors and world facts, which come with the whole of TOFU only",
    "holdout": "a holdout set: give data.holdout, or TOFU's folder with its holdout split",
    "mmlu": "questions of general knowledge: give data.mmlu",
}


def check_criteria(sweep: SweepSettings) -> Iterator[UserError]:
    """Yields the problems of the objectives, the constraints and the floors of early stopping.

    Args:
        sweep: Settings with objectives filled in. Its files must exist, because the available metrics depend
            on them.
    """
    available = available_metrics(sweep)
    if len(sweep.objectives) < 2:
        yield UserError(
            "a front needs at least two objectives",
            key="objectives",
            value=list(sweep.objectives),
            allowed=_names(available),
        )
    for name, objective in sweep.objectives.items():
        place = f"objectives.{name}"
        # Directions and bounds can be checked only for a metric that exists.
        missing = _missing(sweep, name, place, available)
        yield from missing or _objective(METRICS[name], objective, place)
        yield from [] if missing else _bounds(METRICS[name], objective, place)
    floors = {} if sweep.early_stopping is None else sweep.early_stopping.floors
    for block, limits in (("constraints", sweep.constraints), ("early_stopping.floors", floors)):
        for name, bounds in limits.items():
            place = f"{block}.{name}"
            if bounds.at_least is None and bounds.at_most is None:
                yield UserError("limits nothing", key=place, remedy="give at_least, at_most or both")
            yield from _missing(sweep, name, place, available) or _bounds(METRICS[name], bounds, place)


def _missing(sweep: SweepSettings, name: str, place: str, available: set[str]) -> list[UserError]:
    metric = METRICS.get(name)
    if metric is None:
        return [
            UserError(f"no such metric.{did_you_mean(name, available)}", key=place, allowed=_names(available))
        ]
    if name not in available:
        return [UserError(f"this sweep cannot give this metric: {_why_not(sweep, metric)}", key=place)]
    return []


def _objective(metric: MetricInfo, objective: ObjectiveSettings, place: str) -> Iterator[UserError]:
    # Clipped values lie within the clip, which then takes the place of the metric's range.
    low, high = objective.clip or metric.range
    minimize, reference = objective.direction == "minimize", objective.reference
    if metric.direction not in (None, objective.direction):
        better = "lower" if metric.direction == "minimize" else "higher"
        yield UserError(
            f"{better} is better",
            key=f"{place}.direction",
            value=objective.direction,
            allowed=metric.direction,
        )
    elif (reference <= low) if minimize else (reference >= high):
        yield UserError(
            "no trial can be better than this, so every hypervolume is 0",
            key=f"{place}.reference",
            value=reference,
            remedy=f"the worst value is {high if minimize else low:g}",
        )
    elif objective.clip is not None and not low <= reference <= high:
        yield UserError(
            "is outside clip", key=f"{place}.reference", value=reference, allowed=f"from {low:g} to {high:g}"
        )


def _bounds(metric: MetricInfo, bounds: BoundSettings, place: str) -> Iterator[UserError]:
    low, high = metric.range
    if bounds.at_least is not None and bounds.at_least > high:
        yield UserError(
            "no trial can reach this",
            key=f"{place}.at_least",
            value=bounds.at_least,
            allowed=f"up to {high:g}",
        )
    if bounds.at_most is not None and bounds.at_most < low:
        yield UserError(
            "no trial can reach this", key=f"{place}.at_most", value=bounds.at_most, allowed=f"from {low:g}"
        )


def _why_not(sweep: SweepSettings, metric: MetricInfo) -> str:
    if sweep.data.benchmark not in metric.benchmarks:
        *names, last = sorted(metric.benchmarks)
        belongs = f"{', '.join(names)} and {last}" if names else last
        return f"it belongs to {belongs}, and data.benchmark is {sweep.data.benchmark}"
    return f"it needs {' and '.join(WHY_MISSING[need] for need in sorted(metric.needs - given(sweep)))}"


def _names(metrics: set[str]) -> str:
    return ", ".join(sorted(metrics))
