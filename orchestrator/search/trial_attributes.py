"""The Optuna user attributes of a trial, in which the study stores rungs, times and the end of a trial."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from orchestrator.storage.trial_records import Status, TrialRecord, trial_id

STARTED = "started"
"""Unix time in seconds at which the current attempt started; None once its driver is known to be dead."""
REACHED = "reached"
"""Unix time in seconds of the last measurement of the current attempt."""
SPENT = "spent"
"""Wall time of earlier attempts in seconds."""
END = "end"
"""How the trial ended: `status`, `reason`, `at` (Unix time in seconds) and `rung` (the selected one, from 1).

The first record that is written when a trial ends, so that an interrupted end can be completed.
"""
_RUNG = "rung:"

STATES: dict[Status, TrialState] = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_STATUS: dict[TrialState, Status] = {state: status for status, state in STATES.items()}


def rung_key(rung: int) -> str:
    """Returns the name of the attribute that holds the metrics of a rung, counted from 1."""
    return f"{_RUNG}{rung}"


def rungs_of(trial: FrozenTrial) -> list[Mapping[str, float]]:
    """Returns the metrics of every rung that the current attempt has reached, in order."""
    # Optuna cannot delete an attribute: those of an interrupted attempt are set to None.
    measured = {
        int(key.removeprefix(_RUNG)): value
        for key, value in trial.user_attrs.items()
        if key.startswith(_RUNG) and value is not None
    }
    return [measured[rung] for rung in sorted(measured)]


def interrupted_attributes(trial: FrozenTrial) -> dict[str, Any]:
    """Returns the attributes to set on a running trial whose driver is dead.

    The time of the interrupted attempt counts up to its last measurement. Its rungs are removed, because the
    trial is repeated from its start.
    """
    attrs = trial.user_attrs
    # Already done by an earlier start, whose own driver died before the trial was proposed again.
    if attrs.get(STARTED) is None:
        return {}
    # The time of death is not known; the last measurement is the last sign of life.
    reached = attrs.get(REACHED) or attrs[STARTED]
    spent = attrs.get(SPENT, 0.0) + max(0.0, reached - attrs[STARTED])
    return {
        SPENT: spent,
        STARTED: None,
        REACHED: None,
        **{key: None for key in attrs if key.startswith(_RUNG)},
    }


def record_of(trial: FrozenTrial, notes: Mapping[str, Any]) -> TrialRecord:
    """Converts an Optuna trial to a `TrialRecord`.

    Args:
        trial: The trial as the study holds it.
        notes: The annotations of the trial.
    """
    # An END attribute on a running trial is an end that is still being written.
    attrs, rungs = trial.user_attrs, rungs_of(trial)
    started, end = attrs.get(STARTED), attrs.get(END) if trial.state.is_finished() else None
    duration = end["at"] - started if end is not None and started is not None else None
    return TrialRecord(
        trial_id=trial_id(trial.number),
        number=trial.number,
        status=_STATUS.get(trial.state, "running"),
        params=dict(trial.params),
        metrics=rungs[-1] if rungs else {},
        rungs=rungs,
        reason=end["reason"] if end is not None else None,
        duration_s=duration,
        mlflow_run_id=notes.get("mlflow_run_id"),
        started_at=started,
        finished_at=end["at"] if end is not None else None,
        spent_s=attrs.get(SPENT, 0.0) + (duration or 0.0),
    )
