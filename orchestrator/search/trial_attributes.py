"""How a trial is written into the study, beside its parameters and values: Optuna's user attributes, and what
they mean."""

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from orchestrator.storage.trial_records import Status, TrialRecord, trial_id

STARTED = "started"
"""Unix time of the last hand-out in seconds; None once its driver is known to be dead."""
REACHED = "reached"
"""Unix time of the last measurement of this attempt in seconds."""
SPENT = "spent"
"""Wall time of earlier attempts in seconds."""
END = "end"
"""How it ended: `status`, `reason`, `at` (Unix time in seconds), `rung` (the selected one, from 1). Written
first of its end."""
_RUNG = "rung:"

STATES: dict[Status, TrialState] = {
    "finished": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
_STATUS: dict[TrialState, Status] = {state: status for status, state in STATES.items()}


def rung_key(rung: int) -> str:
    """The attribute that holds the metrics of a rung, from 1."""
    return f"{_RUNG}{rung}"


def rungs_of(trial: FrozenTrial) -> list[Mapping[str, float]]:
    """Metrics of every rung that this attempt has reached, in order."""
    # Optuna cannot take an attribute back: those of an attempt that was cut off are None.
    told = {
        int(key.removeprefix(_RUNG)): value
        for key, value in trial.user_attrs.items()
        if key.startswith(_RUNG) and value is not None
    }
    return [told[rung] for rung in sorted(told)]


def cut_off(trial: FrozenTrial) -> dict[str, Any]:
    """What to write about a running trial whose driver is dead: its attempt counts up to its last measurement
    and leaves nothing else."""
    attrs = trial.user_attrs
    if attrs.get(STARTED) is None:
        return {}
    reached = attrs.get(REACHED) or attrs[STARTED]
    spent = attrs.get(SPENT, 0.0) + max(0.0, reached - attrs[STARTED])
    return {
        SPENT: spent,
        STARTED: None,
        REACHED: None,
        **{key: None for key in attrs if key.startswith(_RUNG)},
    }


def record_of(trial: FrozenTrial, notes: Mapping[str, Any]) -> TrialRecord:
    """A trial as the rest of the orchestrator knows it.

    Args:
        trial: As the study holds it.
        notes: What was noted beside it.
    """
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
