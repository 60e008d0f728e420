"""One rung of one trial by name, on the front or not: what `lethe export` and `lethe reproduce` are asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.pareto.front import build_front, rung_name
from orchestrator.pareto.member_selection import pick
from orchestrator.pareto.objectives import Criteria
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.user_errors import UserError, did_you_mean


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
        UserError: There is no such trial or rung, it has no result, or the text means several members of the front.
    """
    match = re.fullmatch(r"(t\d+)(?:@(\d+))?", text.strip())
    if match is None:
        return _on_front(records, criteria, text, key)
    record = find_trial(records, match[1], key)
    if not record.rungs or record.status not in ("finished", "stopped"):
        why = f"failed: {record.reason}" if record.status == "failed" else "is still running"
        raise UserError(f"the trial {why}", key=key, value=text, remedy="give a trial that ended with a result; see `lethe status`")
    rung = len(record.rungs) if match[2] is None else int(match[2])
    if not 1 <= rung <= len(record.rungs):
        raise UserError("the trial has no such rung", key=key, value=text, allowed=f"{match[1]}@1 to {match[1]}@{len(record.rungs)}")
    return ChosenRung(record, rung)


def find_trial(records: Sequence[TrialRecord], name: str, key: str) -> TrialRecord:
    """A trial by its name.

    Raises:
        UserError: There is none; says which there are.
    """
    known = {record.trial_id: record for record in records}
    if name not in known:
        allowed = f"{min(known)} to {max(known)}" if known else "none yet"
        raise UserError(f"there is no such trial.{did_you_mean(name, known)}", key=key, value=name, allowed=allowed)
    return known[name]


def _on_front(records: Sequence[TrialRecord], criteria: Criteria, text: str, key: str) -> ChosenRung:
    try:
        members = pick(build_front(records, criteria), text)
    except UserError as error:
        # The same words stand behind another option there.
        raise UserError(error.message, key=key, value=text, allowed=error.allowed, remedy=error.remedy) from error
    if len(members) > 1:
        names = ", ".join(member.name for member in members)
        raise UserError(f"means {len(members)} members of the front", key=key, value=text, allowed=f"one of them: {names}, or knee")
    return ChosenRung(members[0].record, members[0].rung)
