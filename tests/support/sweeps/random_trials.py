"""Trials at random on a coarse grid, so that ties, dominated rungs and infeasible ones are common: for slow
references of the front."""

from dataclasses import replace
from random import Random

from orchestrator.pareto.objectives import Criteria, Limit, Objective
from orchestrator.storage.trial_records import TrialRecord, trial_id

OBJECTIVES = (Objective("mass", "minimize", 6.0), Objective("utility", "maximize", -1.0))
LIMITS = (Limit("utility", 1, "at_least"), Limit("fluency", 4, "at_most"))
CRITERIA = {
    "every rung": Criteria(OBJECTIVES),
    "every rung within limits": Criteria(OBJECTIVES, LIMITS),
    "last rung": Criteria(OBJECTIVES, (), every_rung=False),
    "last rung within limits": Criteria(OBJECTIVES, LIMITS, every_rung=False),
}
RUNGS, LANES = 3, 4


def measured(validation, test=None, **more):
    """A rung with (mass, utility) on the validation part and, where it was measured, on the test part."""
    parts = {"validation": validation} | ({} if test is None else {"test": test})
    metrics = {
        f"{part}/{name}": value
        for part, pair in parts.items()
        for name, value in zip(("mass", "utility"), pair, strict=True)
    }
    return metrics | {f"validation/{name}": value for name, value in more.items()}


def record(number, *rungs, status="finished", **more):
    """A trial with these rungs."""
    metrics = rungs[-1] if rungs else {}
    return TrialRecord(
        trial_id(number), number, status, {"retain.weight": float(number)}, metrics, rungs, **more
    )


def random_rung(draw: Random):
    """Measured on both parts."""
    validation = draw.randint(0, 5), draw.randint(0, 5)
    return measured(
        validation, tuple(value + draw.choice((0, 0, 1)) for value in validation), fluency=draw.randint(0, 5)
    )


def random_trials(seed, trials=30):
    """Trials that have ended, in any way and with all rungs that they reached measured on both parts, by
    number."""
    draw, found = Random(seed), []
    for number in range(trials):
        status = draw.choice(("finished", "finished", "stopped", "failed"))
        reached = RUNGS if status == "finished" else draw.randint(0 if status == "failed" else 1, RUNGS - 1)
        rungs = [random_rung(draw) for _ in range(reached)]
        ended = {
            "duration_s": 1.0,
            "spent_s": 1.0 + draw.choice((0, 0, 2)),
            "started_at": float(number),
            "finished_at": number + 1.0,
        }
        found.append(
            record(
                number, *rungs, status=status, reason=None if status == "finished" else "so it was", **ended
            )
        )
    return found


def up_to(trial: TrialRecord, rung):
    """The trial while it still ran, as it was at a rung."""
    rungs = trial.rungs[:rung]
    unknown = {
        "reason": None,
        "duration_s": None,
        "finished_at": None,
        "spent_s": trial.spent_s - (trial.duration_s or 0.0),
    }
    return replace(trial, status="running", rungs=rungs, metrics=rungs[-1] if rungs else {}, **unknown)


def interleaved(trials, seed):
    """The events of trials that run beside each other: pairs of a trial and 0 at its start, the number of
    each rung, None at its end."""
    draw, waiting, running = Random(seed), list(trials), []
    while waiting or running:
        if waiting and len(running) < LANES:
            running.append([waiting.pop(0), 0])
            yield running[-1][0], 0
        state = draw.choice(running)
        trial, reached = state
        if reached < len(trial.rungs):
            state[1] += 1
            yield trial, state[1]
        else:
            running.remove(state)
            yield trial, None
