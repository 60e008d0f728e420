"""The data of the report's figures, without a plotting library.

Both the interactive figures and the still picture draw these points, edges, medians and titles.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.pareto.dominance import hypervolume
from orchestrator.pareto.front import Front, Key, rung_name
from orchestrator.pareto.objectives import Objective, minimised_reference, objective_values, to_minimised
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.storage.trial_records import BASELINES, TrialRecord
from search_spaces.catalogue.method_catalogue import METHODS
from search_spaces.settings.sweep_settings import SweepSettings

BELIEF_NAMES = {"none": "plain", "token": "BS-T", "sequence": "BS-S", "token+sequence": "BS-T + BS-S"}
METHOD_NAMES = {name: method.name for name, method in METHODS.items()}
CANONICAL, REPHRASED = "validation/forget_canonical_mass", "validation/forget_rephrased_mass"
LABEL_ROOM = (0.09, 0.04)
"""Width and height of a mark's name, as shares of the spread of all marks."""
_SCHEDULE_KEYS = frozenset({"epochs", "steps", "rungs", "optimizer.global_batch"})


@dataclass(frozen=True)
class Point:
    """A trial at one of its rungs, in the plane of its objectives."""

    record: TrialRecord
    rung: int
    """The rung, counted from 1."""
    method: str
    beliefs: str
    values: Mapping[str, float]
    """Objective name -> value on the test part."""
    on_front: bool

    @property
    def name(self) -> str:
        """The point's name: `t0007` at the trial's end, `t0007@2` at an earlier rung."""
        return rung_name(self.record, self.rung)


@dataclass(frozen=True)
class SqueezeLine:
    """Masses of one trial at its rungs; the first entry is the original model where it was measured."""

    trial_id: str
    progress: tuple[float, ...]
    canonical: tuple[float, ...]
    rephrased: tuple[float, ...]


@dataclass(frozen=True)
class SqueezeGroup:
    """Trials with the same kind of beliefs, and their median at every rung."""

    beliefs: str
    lines: tuple[SqueezeLine, ...]
    median: SqueezeLine


def method_and_beliefs(sweep: SweepSettings, record: TrialRecord) -> tuple[str, str]:
    """Returns the base method and the beliefs of a trial, whether they were searched or fixed."""
    return record.params.get("forget.method", sweep.trial.forget.method), record.params.get(
        "beliefs", sweep.trial.beliefs
    )


def group_name(method: str, beliefs: str) -> str:
    """Returns the name of a method with its beliefs: `NPO + BS-S`, `WGA (plain)`."""
    name = METHOD_NAMES.get(method, method)
    return f"{name} ({BELIEF_NAMES[beliefs]})" if beliefs == "none" else f"{name} + {BELIEF_NAMES[beliefs]}"


def points_of(view: SweepView) -> list[Point]:
    """Returns the trials' last rungs, where their test part was measured, and the members of the front, in
    the order of the study."""
    return _points(view, view.front.keys)


def end_points(view: SweepView) -> list[Point]:
    """Returns the trials' last rungs, where their test part was measured, without regard to the front."""
    return _points(view, frozenset())


def _points(view: SweepView, members: frozenset[Key]) -> list[Point]:
    points = []
    for record in view.records:
        if record.status not in ("finished", "stopped"):
            continue
        for rung, metrics in enumerate(record.rungs, start=1):
            values, on_front = (
                objective_values(metrics, view.objectives, "test"),
                (record.trial_id, rung) in members,
            )
            if values is not None and (on_front or rung == len(record.rungs)):
                points.append(Point(record, rung, *method_and_beliefs(view.sweep, record), values, on_front))
    return points


def baseline_points(view: SweepView) -> dict[str, dict[str, float]]:
    """Returns the test objectives of the baselines, where they were measured."""
    found = {
        name: objective_values(view.baselines[name], view.objectives, "test")
        for name in sorted(view.baselines, key=BASELINES.index)
    }
    return {name: values for name, values in found.items() if values is not None}


def staircase(front: Front) -> tuple[list[float], list[float]]:
    """Returns the edge of the area that the front dominates, for two objectives.

    The edge begins and ends on the lines through the reference point.

    Returns:
        Corners to be joined by straight lines; empty without members better than the reference point.
    """
    return edge(
        front.objectives, [to_minimised(front.objectives, member.objectives) for member in front.members]
    )


def edge(
    objectives: Sequence[Objective], points: Iterable[Sequence[float]]
) -> tuple[list[float], list[float]]:
    """Returns the edge of the area that points dominate, for two objectives.

    The edge begins and ends on the lines through the reference point.

    Args:
        objectives: The two objectives.
        points: Points that minimise, as `to_minimised` returns them; none dominates another.

    Returns:
        Corners in the metrics' own signs, to be joined by straight lines; empty without points better than
        the reference point.
    """
    first, second = objectives
    reference = minimised_reference(objectives)
    inside = [(x, y) for x, y in sorted(map(tuple, points)) if x < reference[0] and y < reference[1]]
    if not inside:
        return [], []
    # Between two neighbours the dominated area has a corner at the worse of their coordinates.
    corners = [(inside[0][0], reference[1])]
    for point, following in zip(inside, [*inside[1:], (reference[0], 0.0)], strict=True):
        corners += [point, (following[0], point[1])]
    return [first.from_minimised(x) for x, _ in corners], [second.from_minimised(y) for _, y in corners]


def better(objective: Objective) -> str:
    """Returns in words which direction is better, since plots keep the metric's own sign."""
    return f"{'lower' if objective.direction == 'minimize' else 'higher'} is better"


def axis_title(objective: Objective, part: Literal["validation", "test"] = "test") -> str:
    """Returns an axis title such as `forget_true_mass, test part (lower is better)`."""
    return f"{objective.name}, {part} part ({better(objective)})"


def yardstick(view: SweepView) -> float | None:
    """Returns the hypervolume of the retrained model alone, which exact unlearning would reach."""
    values = baseline_points(view).get("retrained")
    if values is None:
        return None
    return hypervolume([to_minimised(view.objectives, values)], view.criteria.reference)


def squeeze_groups(view: SweepView) -> list[SqueezeGroup]:
    """Returns canonical and rephrased mass on the forget questions at each rung, by kind of beliefs.

    Returns:
        Groups with plain trials first; none where the benchmark does not measure masses.
    """
    original = view.baselines.get("original", {})
    groups = []
    for beliefs in BELIEF_NAMES:
        lines = []
        for record in view.records:
            measured = [rung for rung in record.rungs if CANONICAL in rung and REPHRASED in rung]
            if (
                record.status in ("finished", "stopped")
                and measured
                and method_and_beliefs(view.sweep, record)[1] == beliefs
            ):
                lines.append(_squeeze_line(view.sweep, record, measured, original))
        if lines:
            groups.append(SqueezeGroup(beliefs, tuple(lines), _median(lines)))
    return groups


def squeeze_level(view: SweepView) -> float | None:
    """Returns the rephrased mass of the original model; mass above it was squeezed into rephrasings."""
    return view.baselines.get("original", {}).get(REPHRASED)


def top_importances(view: SweepView, most: int = 12) -> list[str]:
    """Returns the searched keys that matter for any objective, the most important first."""
    largest: dict[str, float] = {}
    for shares in view.importances.values():
        for key, share in shares.items():
            largest[key] = max(share, largest.get(key, 0.0))
    return sorted(largest, key=lambda key: -largest[key])[:most]


def progress_title(sweep: SweepSettings) -> str:
    """Returns the title of the squeezing figure's axis: epochs or steps if all trials have the same schedule,
    else rungs."""
    return (
        "rung of evaluation"
        if _schedule_varies(sweep)
        else "optimizer step"
        if sweep.trial.steps
        else "epoch"
    )


def names_with_room(names: Sequence[str], places: Sequence[tuple[float, float]]) -> list[str]:
    """Returns the names, but an empty one where it would cover another name.

    The interactive figure shows such a name when the pointer is on its mark.
    """
    spreads = [max(axis) - min(axis) for axis in zip(*places, strict=True)]
    shown: list[tuple[float, float]] = []
    found = []
    for name, place in zip(names, places, strict=True):
        hidden = any(
            all(
                abs(a - b) < room * spread
                for a, b, room, spread in zip(place, other, LABEL_ROOM, spreads, strict=True)
            )
            for other in shown
        )
        if not hidden:
            shown.append(place)
        found.append("" if hidden else name)
    return found


def method_names(points: Sequence[Point]) -> list[str]:
    """Returns the methods that occur, in the catalogue's order."""
    return [method for method in METHODS if any(point.method == method for point in points)]


def _schedule_varies(sweep: SweepSettings) -> bool:
    return not _SCHEDULE_KEYS.isdisjoint(sweep.space)


def _squeeze_line(
    sweep: SweepSettings,
    record: TrialRecord,
    measured: Sequence[Mapping[str, float]],
    original: Mapping[str, float],
) -> SqueezeLine:
    # Rungs are spread evenly over the schedule, so that the rung's number gives its epoch or step.
    each = 1.0 if _schedule_varies(sweep) else (sweep.trial.steps or sweep.trial.epochs) / sweep.trial.rungs
    progress = [each * (index + 1) for index in range(len(measured))]
    start = (
        [original]
        if math.isfinite(original.get(CANONICAL, math.nan) + original.get(REPHRASED, math.nan))
        else []
    )
    rungs = [*start, *measured]
    return SqueezeLine(
        record.trial_id,
        tuple([0.0] * len(start) + progress),
        tuple(rung[CANONICAL] for rung in rungs),
        tuple(rung[REPHRASED] for rung in rungs),
    )


def _median(lines: Sequence[SqueezeLine]) -> SqueezeLine:
    """Returns the median at every progress that any trial reached, over the trials that reached it."""
    steps = sorted({progress for line in lines for progress in line.progress})
    canonical, rephrased = [], []
    for step in steps:
        here = [(line, line.progress.index(step)) for line in lines if step in line.progress]
        canonical.append(statistics.median(line.canonical[index] for line, index in here))
        rephrased.append(statistics.median(line.rephrased[index] for line, index in here))
    return SqueezeLine("median", tuple(steps), tuple(canonical), tuple(rephrased))
