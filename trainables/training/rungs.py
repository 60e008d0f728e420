"""What happens at a rung of a trial: evaluation, the decision to go on, and what is kept."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.engine.zero3_engine import Engine
from trainables.events import RungDecision, TrialFailedError
from trainables.training.checkpoints import Checkpoints
from trainables.training.trial_schedule import TrialSchedule
from trainables.training.trial_state import Clock, RungResult, StepResult, TrialResult, TrialState

Report = Callable[[dict[str, Any]], None]
"""Takes one event: `{"event": "state" | "rung" | "test" | "log", ...}`. Called on rank 0 only."""

VALIDATION = "validation"
TEST = "test"

Decide = Callable[[int, int], RungDecision]
"""Given the number of a rung, from 1, and how many there are: whether the trial goes on, and whether this
rung is kept. Ranks: all."""


@dataclass(frozen=True)
class AtRungs:
    """What a trial does at its rungs. Ranks: all call the same, equally often."""

    evaluate: Callable[[tuple[str, ...]], dict[str, float]]
    """Metrics of the policy as it is, for the named evaluation parts."""
    decide: Decide
    """Asked after the rung's event, which holds the rest."""
    save: Callable[[int], None]
    """Writes the policy's weights under the number of a rung."""


def alone(stop_at: int | None = None) -> Decide:
    """The judge of a trial that nobody watches: it ends, and is kept, at the rung `stop_at` or at its last
    one."""

    def decide(rung: int, rungs: int) -> RungDecision:
        end = rungs if stop_at is None else min(stop_at, rungs)
        return RungDecision(go_on=rung < end, keep=rung == end, reason=f"asked to end at rung {end}")

    return decide


def resume_trial(
    engine: Engine, checkpoints: Checkpoints, schedule: TrialSchedule, at_rungs: AtRungs, report: Report
) -> tuple[TrialState, TrialResult | None]:
    """Go on from a checkpoint, where there is one. Ranks: all.

    Its rungs are reported again, since a new driver has struck them out, and judged again: a driver that has
    judged them already gives the same verdicts.

    Returns:
        How far the trial is; and its result, where a rung was judged to be its end.
    """
    found = checkpoints.find()
    if found is None:
        return TrialState(), None
    state = found.state
    for told in state.rungs:
        if engine.rank == 0:
            report(told.event)
        decision = at_rungs.decide(told.rung, len(schedule.rungs))
        if decision.keep and not told.kept:
            # Its weights are gone, and only the way from the start leads there.
            checkpoints.remove()
            _log(engine, report, f"rung {told.rung} is to be kept, unlike before: starts again at step 0")
            return TrialState(), None
        if decision.keep and told.test is not None and engine.rank == 0:
            report(_test_event(told.rung, told.test))
        if not decision.go_on:
            metrics = told.metrics if decision.keep else told.event["metrics"]
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
    """Measure, be judged, and be kept where that is the verdict; adds to `passed`. Ranks: all."""
    rung, rungs = schedule.rungs.index(step + 1) + 1, len(schedule.rungs)
    # The report's items are measured only where the verdict, which looks at the others, asks for them; and at
    # the end.
    metrics = at_rungs.evaluate((VALIDATION, TEST) if rung == rungs else (VALIDATION,))
    metrics |= result.metrics
    check_finite(metrics, step)
    event = {"event": "rung", "rung": rung, "rungs": rungs, "step": step + 1, "metrics": metrics}
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
                report(_test_event(rung, test))
            clock.lap("evaluation")
        at_rungs.save(rung)
        clock.lap("weights")
    passed.append(RungResult(rung, event, test, decision.keep))
    return decision


def _test_event(rung: int, metrics: dict[str, float]) -> dict[str, Any]:
    return {"event": "test", "rung": rung, "metrics": metrics}


def _log(engine: Engine, report: Report, line: str) -> None:
    if engine.rank == 0:
        report({"event": "log", "line": line})


def check_finite(values: Mapping[str, float], step: int) -> None:
    """Raise `TrialFailedError` where a value is no finite number."""
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrialFailedError(
            f"{bad[0]} after step {step + 1}; lower optimizer.learning_rate or forget.weight, or raise"
            " retain.weight"
        )
