"""One unlearning trial, from pristine weights to its last rung. Knows no Ray: `report` is all it tells the world."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from search_spaces.trial_settings import TrialSettings
from trainables.beliefs import sample_beliefs
from trainables.composition import Composition
from trainables.data.batches import global_batch, share, steps_per_epoch
from trainables.engine import Engine
from trainables.jobs import TrialFailedError, Verdict
from trainables.lane_data import LaneData
from trainables.losses.residuals import METHODS
from trainables.schedule import learning_rate, rung_steps

Report = Callable[[dict[str, Any]], None]
"""Takes one event: `{"event": "progress" | "rung" | "test" | "log", ...}`. Called on rank 0 only."""

VALIDATION, TEST = "validation", "test"


LOG_LINES = 10
"""Lines about steps in a trial's log."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial leaves.

    Attributes:
        metrics: Last rung's metrics; keys such as `validation/utility`, `test/utility`, `train/loss`.
        seconds: Time in steps, beliefs and evaluation.
        stopped: Why it ended before its last rung; None when it did not.
    """

    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    stopped: str | None = None


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: the loss, its parts, the gradient norm before clipping and the share of guarded belief rows."""

    loss: float
    gradient_norm: float
    guarded_frac: float


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


def run_trial(
    engine: Engine, trial: TrialSettings, data: LaneData, reference_logp_nats: Mapping[str, float], at_rungs: AtRungs, report: Report
) -> TrialResult:
    """Unlearn from the pristine weights.

    Args:
        engine: Engine whose pristine weights are the model to unlearn.
        trial: Everything that decides the result.
        data: Encoded forget and retain set.
        reference_logp_nats: Log-probability of each forget response under the original model, by example id.
        at_rungs: Measures, judges and keeps the policy.
        report: Told about steps and rungs, on rank 0.

    Raises:
        TrialFailedError: A loss, gradient or metric is not a finite number.

    Ranks: all.
    """
    torch.manual_seed(trial.seed)
    engine.reset(trial.optimizer, trial.engine)
    per_epoch = steps_per_epoch(len(data.forget), trial.optimizer.global_batch)
    steps = trial.steps or trial.epochs * per_epoch
    refresh_every = max(1, round(trial.sequence_belief.refresh_epochs * per_epoch)) if trial.sequence_belief.refresh_epochs else steps
    warmup = round(trial.optimizer.warmup_epochs * per_epoch)
    rungs = rung_steps(steps, trial.rungs)
    composition = Composition(trial, data.forget, data.retain, reference_logp_nats)
    clock = Clock()
    metrics: dict[str, float] = {}
    for step in range(steps):
        if trial.sequence_beliefs and step % refresh_every == 0:
            composition = replace(composition, beliefs=_refresh(engine, trial, data, step // refresh_every))
            clock.lap("beliefs")
        rate = learning_rate(step, steps, trial.optimizer.learning_rate, warmup, trial.optimizer.schedule)
        result = train_step(engine, composition, step, rate)
        clock.lap("steps")
        _check_finite({"loss": result.loss, "gradient norm": result.gradient_norm}, step)
        if engine.rank == 0:
            _report_step(report, step, steps, result, rate)
        if step + 1 in rungs:
            rung = rungs.index(step + 1) + 1
            metrics, verdict = _at_rung(engine, at_rungs, report, (rung, len(rungs), step), result)
            clock.lap("evaluation")
            if rung < len(rungs) and not verdict.go_on:
                return TrialResult(metrics, clock.seconds, verdict.reason or "stopped")
    return TrialResult(metrics, clock.seconds)


def _report_step(report: Report, step: int, steps: int, result: StepResult, rate: float) -> None:
    report({"event": "progress", "step": step + 1, "steps": steps, "loss": result.loss})
    if step % max(1, steps // LOG_LINES) == 0:
        line = f"step {step + 1}/{steps}: loss {result.loss:.4g}, gradient norm {result.gradient_norm:.4g}, learning rate {rate:.3g}"
        report({"event": "log", "line": line})


def _at_rung(
    engine: Engine, at_rungs: AtRungs, report: Report, where: tuple[int, int, int], result: StepResult
) -> tuple[dict[str, float], Verdict]:
    """Measure, be judged, and be kept where that is the verdict. Ranks: all."""
    rung, rungs, step = where
    # The report's items are measured only where the verdict, which looks at the others, asks for them; and at the end.
    metrics = at_rungs.evaluate((VALIDATION, TEST) if rung == rungs else (VALIDATION,))
    metrics |= {"train/loss": result.loss, "train/gradient_norm": result.gradient_norm, "train/guarded_frac": result.guarded_frac}
    _check_finite(metrics, step)
    if engine.rank == 0:
        report({"event": "rung", "rung": rung, "rungs": rungs, "step": step + 1, "metrics": metrics})
    verdict = at_rungs.judge(rung, rungs)
    if verdict.keep:
        if rung < rungs:
            test = at_rungs.evaluate((TEST,))
            _check_finite(test, step)
            if engine.rank == 0:
                report({"event": "test", "rung": rung, "metrics": test})
            metrics = metrics | test
        at_rungs.save(rung)
    return metrics, verdict


def train_step(engine: Engine, composition: Composition, step: int, rate: float) -> StepResult:
    """One optimizer step on the global batch of `step`. Ranks: all."""
    trial = composition.trial
    pairs = global_batch(trial.seed, step, len(composition.forget), len(composition.retain), trial.optimizer.global_batch)
    loss = guarded = belief_rows = 0.0
    for part in share(pairs, engine.rank, engine.world_size, trial.optimizer.micro_batch):
        batch, plan = composition.micro_batch(part, pairs)
        if composition.retain_kind == "kl":
            plan = engine.with_reference(batch, plan)
        output = engine.backward(batch, plan)
        loss += float(output.loss.detach())
        guarded += sum(term.guarded_rows for term in output.terms)
        belief_rows += sum(term.rows for term, planned in zip(output.terms, plan.terms, strict=True) if planned.kind == "forget")
    norm = engine.step(rate)
    loss, guarded, belief_rows = engine.sum([loss, guarded, belief_rows])
    return StepResult(loss, norm, guarded / max(1.0, belief_rows))


def _refresh(engine: Engine, trial: TrialSettings, data: LaneData, refresh: int) -> Any:
    return sample_beliefs(
        engine,
        data.forget,
        trial.sequence_belief,
        trial.engine,
        seed=trial.seed,
        refresh=refresh,
        with_reference=METHODS[trial.forget.method].needs_reference,
    )


def _check_finite(values: Mapping[str, float], step: int) -> None:
    bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrialFailedError(f"{bad[0]} after step {step + 1}; lower optimizer.learning_rate or forget.weight, or raise retain.weight")


class Clock:
    """Adds up where the time goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"steps": 0.0, "beliefs": 0.0, "evaluation": 0.0}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now
