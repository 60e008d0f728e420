"""Selects members of the front (`front`, `knee`, `t0007@2`, `utility>=0.5`), or any rung of any trial.

Conditions are compared with the values on the test part, which `lethe front` shows.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.pareto.dominance import non_dominated
from orchestrator.pareto.front import Front, FrontMember, build_front, rung_name
from orchestrator.pareto.objectives import Criteria, Objective, to_minimised
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.user_errors import UserError, did_you_mean

GRAMMAR = (
    'front, knee, a trial such as t0007 or t0007@2, or conditions such as "utility>=0.5", joined by commas'
)
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*([\w./-]+)\s*(>=|<=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """One bound on one objective, such as `utility>=0.5`."""

    objective: Objective
    sign: str
    """The comparison: a key of `OPERATORS`."""
    bound: float
    """The bound, in the metric's own sign."""

    def holds(self, member: FrontMember) -> bool:
        """Returns whether a member satisfies the condition."""
        return OPERATORS[self.sign](member.objectives[self.objective.name], self.bound)

    def nearest(self, members: Sequence[FrontMember]) -> FrontMember:
        """Returns the member that satisfies the condition by the largest margin, or misses it by least."""
        side = 1 if self.sign.startswith(">") else -1
        return max(members, key=lambda member: side * member.objectives[self.objective.name])


def select_members(front: Front, text: str) -> list[FrontMember]:
    """Selects members of a front by an expression of the command line.

    Args:
        front: The front to select from.
        text: `front` for all members; `knee` for the knee (see `knee`); a trial's id for all its members;
            `t0007@2` for the member at that rung; or conditions joined by commas, which select, among the
            members that satisfy all of them, those that are non-dominated in the other objectives.

    Returns:
        At least one member, in the front's order.

    Raises:
        UserError: The text is none of these, names something unknown, or no member satisfies the conditions.
    """
    word = text.strip()
    if not front.members:
        raise UserError(
            "there is nothing to pick from: no trial is on the front yet", key="--pick", value=text
        )
    if word == "front":
        return list(front.members)
    if word == "knee":
        return [knee(front)]
    if re.search("[<>=]", word):
        return _best_under(front, [_condition(front, part) for part in word.split(",")])
    # `t0007@3` is accepted for the last rung too, whose name is the plain `t0007`.
    found = [
        member for member in front.members if word in (member.record.trial_id, "{}@{}".format(*member.key))
    ]
    if not found:
        names = [member.name for member in front.members]
        guess = did_you_mean(
            word, ["front", "knee", *names, *(objective.name for objective in front.objectives)]
        )
        raise UserError(
            f"no member of the front has this name.{guess}",
            key="--pick",
            value=text,
            allowed=f"{GRAMMAR}. On the front: {', '.join(names)}",
        )
    return found


def knee(front: Front) -> FrontMember:
    """Finds the knee: the member at which a small gain in one objective would cost much of another.

    All objectives are scaled so that the front spans 0 (best) to 1 (worst). The knee is the member farthest
    from the plane on which the scaled values add up to 1, towards the ideal point; with two objectives this
    plane is the line through the two ends of the front. If no member lies on that side of the plane, as with
    one or two members, the knee is the end that is best in the first objective.

    Args:
        front: A front with at least one member.

    Source: Das (1999), "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary
    Intersection".
    """
    points = np.array([to_minimised(front.objectives, member.objectives) for member in front.members])
    # An objective in which all members are equal has no span: all its scaled values are 0.
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(span > 0, span, 1.0)
    # The distance to the plane grows as the sum of the scaled values falls. `argmin` takes the first of equal
    # sums, and the members are sorted by the first objective.
    return front.members[int(np.argmin(scaled.sum(axis=1)))]


def _condition(front: Front, text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UserError("not a condition", key="--pick", value=text.strip(), allowed=GRAMMAR)
    name, sign, number = match.groups()
    # Only objectives can be bounded: the front holds no other metrics of its members.
    known = {objective.name: objective for objective in front.objectives}
    if name not in known:
        raise UserError(
            f"no such objective.{did_you_mean(name, known)}",
            key="--pick",
            value=name,
            allowed=", ".join(known),
        )
    try:
        return Condition(known[name], sign, float(number))
    except ValueError:
        raise UserError(
            "not a number", key="--pick", value=number, allowed=f"a number after {name}{sign}"
        ) from None


def _best_under(front: Front, conditions: Sequence[Condition]) -> list[FrontMember]:
    members = [member for member in front.members if all(condition.holds(member) for condition in conditions)]
    wanted = ",".join(
        f"{condition.objective.name}{condition.sign}{condition.bound:g}" for condition in conditions
    )
    if not members:
        nearest = [(condition.objective.name, condition.nearest(front.members)) for condition in conditions]
        best = ", ".join(f"{name} {member.objectives[name]:.4g} ({member.name})" for name, member in nearest)
        raise UserError(
            "no member of the front satisfies this",
            key="--pick",
            value=wanted,
            remedy=f"the nearest members are: {best}",
        )
    bounded = {condition.objective.name for condition in conditions}
    # If every objective has a condition, the members are compared in all objectives. Members of a front do
    # not dominate each other, so all that satisfy the conditions are returned.
    others = [
        objective for objective in front.objectives if objective.name not in bounded
    ] or front.objectives
    mask = non_dominated([to_minimised(others, member.objectives) for member in members])
    return [member for member, best in zip(members, mask, strict=True) if best]


@dataclass(frozen=True)
class ChosenRung:
    """A trial and one of its rungs."""

    record: TrialRecord
    rung: int
    """The rung, counted from 1."""

    @property
    def name(self) -> str:
        """The rung's name: `t0007` at the trial's end, `t0007@2` at an earlier rung."""
        return rung_name(self.record, self.rung)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics at the rung, with keys such as `validation/utility`."""
        return dict(self.record.rungs[self.rung - 1])


def choose_rung(records: Sequence[TrialRecord], criteria: Criteria, text: str, key: str) -> ChosenRung:
    """Selects one rung of one trial by an expression of the command line.

    Args:
        records: All trials of the sweep.
        criteria: Objectives and limits, from which the front is built.
        text: `t0007` for a trial's end, `t0007@2` for a rung, on the front or not; or `knee` or a condition
            that one member of the front satisfies (see `select_members`).
        key: The option or argument that holds the text, for messages.

    Raises:
        UserError: There is no such trial or rung, the trial has no result, or the text selects several
            members of the front.
    """
    # A trial's id never needs the front, so a rung that is not on it can be chosen too.
    match = re.fullmatch(r"(t\d+)(?:@(\d+))?", text.strip())
    if match is None:
        return _on_front(records, criteria, text, key)
    record = find_trial(records, match[1], key)
    if not record.rungs or record.status not in ("finished", "stopped"):
        why = f"failed: {record.reason}" if record.status == "failed" else "is still running"
        raise UserError(
            f"the trial {why}",
            key=key,
            value=text,
            remedy="give a trial that ended with a result; see `lethe status`",
        )
    rung = len(record.rungs) if match[2] is None else int(match[2])
    if not 1 <= rung <= len(record.rungs):
        raise UserError(
            "the trial has no such rung",
            key=key,
            value=text,
            allowed=f"{match[1]}@1 to {match[1]}@{len(record.rungs)}",
        )
    return ChosenRung(record, rung)


def find_trial(records: Sequence[TrialRecord], name: str, key: str) -> TrialRecord:
    """Finds a trial by its id.

    Raises:
        UserError: There is no such trial; the message lists which trials exist.
    """
    known = {record.trial_id: record for record in records}
    if name not in known:
        allowed = f"{min(known)} to {max(known)}" if known else "none yet"
        raise UserError(
            f"there is no such trial.{did_you_mean(name, known)}", key=key, value=name, allowed=allowed
        )
    return known[name]


def _on_front(records: Sequence[TrialRecord], criteria: Criteria, text: str, key: str) -> ChosenRung:
    try:
        members = select_members(build_front(records, criteria), text)
    except UserError as error:
        # `select_members` writes its errors for the option `--pick`; the caller's option may be another.
        raise UserError(
            error.message, key=key, value=text, allowed=error.allowed, remedy=error.remedy
        ) from error
    if len(members) > 1:
        names = ", ".join(member.name for member in members)
        raise UserError(
            f"means {len(members)} members of the front",
            key=key,
            value=text,
            allowed=f"one of them: {names}, or knee",
        )
    return ChosenRung(members[0].record, members[0].rung)
