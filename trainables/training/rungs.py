"""What happens at a rung of a trial: evaluation, the decision to go on, and what is kept."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.engine.zero3_engine import Engine
from trainables.events import TrialFailedError, Verdict
from trainables.training.checkpoints import Checkpoints
from trainables.training.trial_schedule import Course
from trainables.training.trial_state import Clock, Progress, RungResult, StepResult, TrialResult

Report = Callable[[dict[str, Any]], None]
"""Takes one event: `{"event": "progress" | "rung" | "test" | "log", ...}`. Called on rank 0 only."""

VALIDATION = "validation"
TEST = "test"

Judge = Callable[[int, int], Verdict]
"""Given the number of a rung, from 1, and how many there are: whether the trial goes on, and whether this rung is kept. Ranks: all."""


@dataclass(frozen=True)
class AtRungs:
    """What a trial does at its rungs. Ranks: all call the same, equally often."""

    evaluate: Callable[[tuple[str, ...]], dict[str, float]]
    """Metrics of the policy as it is, for the named evaluation parts."""
    judge: Judge
    """Asked after the rung's event, which holds the rest."""
    save: Callable[[int], None]
    """Writes the policy's weights under the number of a rung."""


def alone(stop_at: int | None = None) -> Judge:
    """The judge of a trial that nobody watches: it ends, and is kept, at the rung `stop_at` or at its last one."""

    def judge(rung: int, rungs: int) -> Verdict:
        end = rungs if stop_at is None else min(stop_at, rungs)
        return Verdict(go_on=rung < end, keep=rung == end, reason=f"asked to end at rung {end}")

    return judge


def resume_trial(
    engine: Engine, checkpoints: Checkpoints, course: Course, at_rungs: AtRungs, report: Report
) -> tuple[Progress, TrialResult | None]:
    """Go on from a checkpoint, where there is one. Ranks: all.

    Its rungs are reported again, since a new driver has struck them out, and judged again: a driver that has judged them already
    gives the same verdicts.

    Returns:
        How far the trial is; and its result, where a rung was judged to be its end.
    """
    found = checkpoints.find()
    if found is None:
        return Progress(), None
    progress = found.progress
    for told in progress.rungs:
        if engine.rank == 0:
            report(told.event)
        verdict = at_rungs.judge(told.rung, len(course.rungs))
        if verdict.keep and not told.kept:
            # Its weights are gone, and only the way from the start leads there.
            checkpoints.remove()
            _log(engine, report, f"rung {told.rung} is to be kept, unlike before: starts again at step 0")
            return Progress(), None
        if verdict.keep and told.test is not None and engine.rank == 0:
            report(_test_event(told.rung, told.test))
        if not verdict.go_on:
            metrics = told.metrics if verdict.keep else told.event["metrics"]
            return progress, TrialResult(metrics, progress.seconds, verdict.reason or "stopped")
    engine.restore(found.tensors)
    _log(engine, report, f"goes on at step {progress.step} of {course.steps}")
    return progress, None


def reach_rung(
    engine: Engine,
    at_rungs: AtRungs,
    report: Report,
    course: Course,
    step: int,
    result: StepResult,
    passed: list[RungResult],
    clock: "Clock",
) -> Verdict:
    """Measure, be judged, and be kept where that is the verdict; adds to `passed`. Ranks: all."""
    rung, rungs = course.rungs.index(step + 1) + 1, len(course.rungs)
    # The report's items are measured only where the verdict, which looks at the others, asks for them; and at the end.
    metrics = at_rungs.evaluate((VALIDATION, TEST) if rung == rungs else (VALIDATION,))
    metrics |= result.metrics
    check_finite(metrics, step)
    event = {"event": "rung", "rung": rung, "rungs": rungs, "step": step + 1, "metrics": metrics}
    if engine.rank == 0:
        report(event)
    clock.lap("evaluation")
    verdict = at_rungs.judge(rung, rungs)
    clock.lap("verdicts")
    test = None
    if verdict.keep:
        if rung < rungs:
            test = at_rungs.evaluate((TEST,))
            check_finite(test, step)
            if engine.rank == 0:
                report(_test_event(rung, test))
            clock.lap("evaluation")
        at_rungs.save(rung)
        clock.lap("weights")
    passed.append(RungResult(rung, event, test, verdict.keep))
    return verdict


def _test_event(rung: int, metrics: dict[str, float]) -> dict[str, Any]:
    return {"event": "test", "rung": rung, "metrics": metrics}


def _log(engine: Engine, report: Report, line: str) -> None:
    if engine.rank == 0:
        report({"event": "log", "line": line})


def check_finite(values: Mapping[str, float], step: int) -> None:
    """Raise `TrialFailedError` where a value is no finite number."""
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrialFailedError(f"{bad[0]} after step {step + 1}; lower optimizer.learning_rate or forget.weight, or raise retain.weight")
