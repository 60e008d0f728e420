"""Selects what a person names: members of the front (`front`, `knee`, `t0007@2`, `utility>=0.5`), or any rung
of any trial.

Values are those of the test part, which `lethe front` shows.
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
    """One bound on one objective."""

    objective: Objective
    sign: str
    """Key of `OPERATORS`."""
    bound: float
    """In the metric's own sign."""

    def holds(self, member: FrontMember) -> bool:
        """Whether a member keeps to it."""
        return OPERATORS[self.sign](member.objectives[self.objective.name], self.bound)

    def nearest(self, members: Sequence[FrontMember]) -> FrontMember:
        """The member that comes nearest to it, or keeps to it by most."""
        side = 1 if self.sign.startswith(">") else -1
        return max(members, key=lambda member: side * member.objectives[self.objective.name])


def select_members(front: Front, text: str) -> list[FrontMember]:
    """Find members of a front.

    Args:
        front: Where to look.
        text: `front` for all, `knee` (see `knee`), a trial's name for its members, `t0007@2` for the one at
            that rung, or conditions: of the members that keep to all of them, the best in the other
            objectives.

    Returns:
        At least one member, in the front's order.

    Raises:
        UserError: The text is none of these, names something unknown, or no member keeps to the conditions.
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
    found = [
        member for member in front.members if word in (member.record.trial_id, "{}@{}".format(*member.key))
    ]
    if not found:
        names = [member.name for member in front.members]
        guess = did_you_mean(
            word, ["front", "knee", *names, *(objective.name for objective in front.objectives)]
        )
        raise UserError(
            f"no member of the front is called so.{guess}",
            key="--pick",
            value=text,
            allowed=f"{GRAMMAR}. On the front: {', '.join(names)}",
        )
    return found


def knee(front: Front) -> FrontMember:
    """The member where giving up a little of one objective would cost much of another.

    All objectives are scaled so that the front spans 0 (best) to 1 (worst). The knee is farthest from the
    plane on which the scaled values add up to 1, towards the ideal; with two objectives that is the line
    through the front's two ends. Where none is on that side of it, as with one or two members, it is the end
    that is best in the first objective.

    Args:
        front: With at least one member.

    Source: Das (1999), "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary
    Intersection".
    """
    points = np.array([to_minimised(front.objectives, member.objectives) for member in front.members])
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(span > 0, span, 1.0)
    return front.members[int(np.argmin(scaled.sum(axis=1)))]


def _condition(front: Front, text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UserError("not a condition", key="--pick", value=text.strip(), allowed=GRAMMAR)
    name, sign, number = match.groups()
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
    asked = ",".join(
        f"{condition.objective.name}{condition.sign}{condition.bound:g}" for condition in conditions
    )
    if not members:
        nearest = [(condition.objective.name, condition.nearest(front.members)) for condition in conditions]
        best = ", ".join(f"{name} {member.objectives[name]:.4g} ({member.name})" for name, member in nearest)
        raise UserError(
            "no member of the front keeps to this",
            key="--pick",
            value=asked,
            remedy=f"the best that there is: {best}",
        )
    bounded = {condition.objective.name for condition in conditions}
    # With a condition on each there is no other objective, and none of a front's members is better than
    # another.
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
    """From 1."""

    @property
    def name(self) -> str:
        """`t0007` at the trial's end, `t0007@2` at an earlier rung."""
        return rung_name(self.record, self.rung)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics at the rung, with keys such as `validation/utility`."""
        return dict(self.record.rungs[self.rung - 1])


def choose_rung(records: Sequence[TrialRecord], criteria: Criteria, text: str, key: str) -> ChosenRung:
    """Find one rung.

    Args:
        records: All trials of the sweep.
        criteria: What decides who is on the front.
        text: `t0007` for a trial's end, `t0007@2` for a rung, on the front or not; or `knee` or a condition
            (see `orchestrator.pareto.member_selection`).
        key: What the person wrote it for, for messages.

    Raises:
        UserError: There is no such trial or rung, it has no result, or the text means several members of the
            front.
    """
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
    """A trial by its name.

    Raises:
        UserError: There is none; says which there are.
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
        # The same words stand behind another option there.
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
