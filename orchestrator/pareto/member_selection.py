"""Members of a front by name: `front`, `knee`, `t0007@2`, or a condition such as `utility>=0.5`.

Values are those of the test part, which `lethe front` shows.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.pareto.dominance import non_dominated
from orchestrator.pareto.front import Front, FrontMember
from orchestrator.pareto.objectives import Objective, to_minimised
from search_spaces.user_errors import UserError, did_you_mean

GRAMMAR = 'front, knee, a trial such as t0007 or t0007@2, or conditions such as "utility>=0.5", joined by commas'
OPERATORS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
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


def pick(front: Front, text: str) -> list[FrontMember]:
    """Find members of a front.

    Args:
        front: Where to look.
        text: `front` for all, `knee` (see `knee`), a trial's name for its members, `t0007@2` for the one at that rung, or conditions:
            of the members that keep to all of them, the best in the other objectives.

    Returns:
        At least one member, in the front's order.

    Raises:
        UserError: The text is none of these, names something unknown, or no member keeps to the conditions.
    """
    word = text.strip()
    if not front.members:
        raise UserError("there is nothing to pick from: no trial is on the front yet", key="--pick", value=text)
    if word == "front":
        return list(front.members)
    if word == "knee":
        return [knee(front)]
    if re.search("[<>=]", word):
        return _best_under(front, [_condition(front, part) for part in word.split(",")])
    found = [member for member in front.members if word in (member.record.trial_id, "{}@{}".format(*member.key))]
    if not found:
        names = [member.name for member in front.members]
        guess = did_you_mean(word, ["front", "knee", *names, *(objective.name for objective in front.objectives)])
        raise UserError(
            f"no member of the front is called so.{guess}", key="--pick", value=text, allowed=f"{GRAMMAR}. On the front: {', '.join(names)}"
        )
    return found


def knee(front: Front) -> FrontMember:
    """The member where giving up a little of one objective would cost much of another.

    All objectives are scaled so that the front spans 0 (best) to 1 (worst). The knee is farthest from the plane on which the scaled
    values add up to 1, towards the ideal; with two objectives that is the line through the front's two ends. Where none is on that side
    of it, as with one or two members, it is the end that is best in the first objective.

    Args:
        front: With at least one member.

    Source: Das (1999), "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection".
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
        raise UserError(f"no such objective.{did_you_mean(name, known)}", key="--pick", value=name, allowed=", ".join(known))
    try:
        return Condition(known[name], sign, float(number))
    except ValueError:
        raise UserError("not a number", key="--pick", value=number, allowed=f"a number after {name}{sign}") from None


def _best_under(front: Front, conditions: Sequence[Condition]) -> list[FrontMember]:
    members = [member for member in front.members if all(condition.holds(member) for condition in conditions)]
    asked = ",".join(f"{condition.objective.name}{condition.sign}{condition.bound:g}" for condition in conditions)
    if not members:
        nearest = [(condition.objective.name, condition.nearest(front.members)) for condition in conditions]
        best = ", ".join(f"{name} {member.objectives[name]:.4g} ({member.name})" for name, member in nearest)
        raise UserError("no member of the front keeps to this", key="--pick", value=asked, remedy=f"the best that there is: {best}")
    bounded = {condition.objective.name for condition in conditions}
    # With a condition on each there is no other objective, and none of a front's members is better than another.
    others = [objective for objective in front.objectives if objective.name not in bounded] or front.objectives
    mask = non_dominated([to_minimised(others, member.objectives) for member in members])
    return [member for member, best in zip(members, mask, strict=True) if best]
