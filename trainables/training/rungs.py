"""The rungs of a trial: evaluation, the decision whether it continues, and saving its weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainables.engine.zero3_engine import Engine
from trainables.events import (
    Decide,
    LineLogged,
    Report,
    RungDecision,
    RungReached,
    RungTested,
    TrialFailedError,
)
from trainables.training.checkpoints import Checkpoints
from trainables.training.trial_schedule import TrialSchedule
from trainables.training.trial_state import Clock, RungResult, StepResult, TrialResult, TrialState

VALIDATION = "validation"
TEST = "test"


@dataclass(frozen=True)
class AtRungs:
    """The functions that a trial calls at its rungs. Ranks: all make the same calls, equally often."""

    evaluate: Callable[[tuple[str, ...]], dict[str, float]]
    """Measures the current policy on the named evaluation parts."""
    decide: Decide
    """Decides whether the trial continues; called after the rung's event, which carries the metrics."""
    save: Callable[[int], None]
    """Writes the policy's weights under the number of a rung."""


def alone(stop_at: int | None = None) -> Decide:
    """Return the decision of a trial without a driver: it ends and is kept at `stop_at` or the last rung."""

    def decide(rung: int, rungs: int) -> RungDecision:
        end = rungs if stop_at is None else min(stop_at, rungs)
        return RungDecision(go_on=rung < end, keep=rung == end, reason=f"ended at rung {end} on request")

    return decide


def resume_trial(
    engine: Engine, checkpoints: Checkpoints, schedule: TrialSchedule, at_rungs: AtRungs, report: Report
) -> tuple[TrialState, TrialResult | None]:
    """Resume a trial from its newest checkpoint, if there is one. Ranks: all.

    The rungs before the checkpoint are reported again, since a new driver has deleted them, and decided
    again: a driver that has decided on them before gives the same decisions.

    Returns:
        The state to continue from; and the trial's result if it was decided to end at one of these rungs.
    """
    found = checkpoints.find()
    if found is None:
        return TrialState(), None
    state = found.state
    for passed in state.rungs:
        if engine.rank == 0:
            report(passed.event)
        decision = at_rungs.decide(passed.rung, len(schedule.rungs))
        if decision.keep and not passed.kept:
            # The weights of this rung were not saved, and only a run from the start reaches them again.
            checkpoints.remove()
            _log(
                engine,
                report,
                f"rung {passed.rung} must now be kept but its weights were dropped: restarting from step 0",
            )
            return TrialState(), None
        # The test part was measured because of the decision to keep, so it is reported only if that decision
        # stands.
        if decision.keep and passed.test is not None and engine.rank == 0:
            report(RungTested(passed.rung, passed.test))
        if not decision.go_on:
            metrics = passed.metrics if decision.keep else passed.event.metrics
            return state, TrialResult(metrics, state.seconds, decision.reason or "stopped")
    engine.restore(found.tensors)
    _log(engine, report, f"goes on at step {state.step} of {schedule.steps}")
    return state, None


def reach_rung(
    engine: Engine,
    at_rungs: AtRungs,
    report: Report,
    schedule: TrialSchedule,
    step: int,
    result: StepResult,
    passed: list[RungResult],
    clock: "Clock",
) -> RungDecision:
    """Evaluate a rung, decide whether the trial continues, and save the weights if they are kept.

    Args:
        engine: Engine of the trial.
        at_rungs: Functions that evaluate, decide and save.
        report: Receives the rung's events on rank 0.
        schedule: Schedule of the trial.
        step: Step that was just finished, from 0.
        result: Loss and gradient norm of that step, reported with the rung.
        passed: Results of the rungs so far; this rung's result is appended.
        clock: Counts the time of each phase.

    Ranks: all.
    """
    rung, rungs = schedule.rungs.index(step + 1) + 1, len(schedule.rungs)
    # Decisions look at the validation part alone. The test part is measured at the last rung, and below only
    # for a rung that is kept.
    metrics = at_rungs.evaluate((VALIDATION, TEST) if rung == rungs else (VALIDATION,))
    metrics |= result.metrics
    # Every rank computes the same metrics, so all of them raise here, or none does.
    check_finite(metrics, step)
    event = RungReached(rung, rungs, metrics, step + 1)
    if engine.rank == 0:
        report(event)
    clock.lap("evaluation")
    decision = at_rungs.decide(rung, rungs)
    clock.lap("verdicts")
    test = None
    if decision.keep:
        if rung < rungs:
            test = at_rungs.evaluate((TEST,))
            check_finite(test, step)
            if engine.rank == 0:
                report(RungTested(rung, test))
            clock.lap("evaluation")
        at_rungs.save(rung)
        clock.lap("weights")
    # Appended after the weights are saved: a checkpoint must not claim weights that are not on the disk.
    passed.append(RungResult(rung, event, test, decision.keep))
    return decision


def _log(engine: Engine, report: Report, line: str) -> None:
    if engine.rank == 0:
        report(LineLogged(line))


def check_finite(values: Mapping[str, float], step: int) -> None:
    """Raise `TrialFailedError` if a value is not a finite number."""
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrialFailedError(
            f"{bad[0]} after step {step + 1}; lower optimizer.learning_rate or forget.weight, or raise"
            " retain.weight"
        )
