"""One unlearning trial, from pristine weights to its last rung. Knows no Ray: `report` is all it tells the world."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from search_spaces.settings.trial_settings import TrialSettings
from trainables.benchmarks.encoded_benchmark import LaneData
from trainables.data.batches import global_batch, share, steps_per_epoch
from trainables.engine.zero3_engine import Engine
from trainables.generation.inference import Logps
from trainables.generation.preferred_answers import preferred_answers
from trainables.generation.sequence_beliefs import sample_beliefs
from trainables.jobs import TrialFailedError, Verdict
from trainables.losses.head_plan import Steering
from trainables.losses.methods import METHODS, ActivationMethod
from trainables.losses.retain import next_weight, starting_weight
from trainables.losses.steering import random_direction, steered_layer
from trainables.training.batch_packing import Composition
from trainables.training.checkpoints import Checkpoints
from trainables.training.trial_schedule import Course, course_of, learning_rate
from trainables.training.trial_state import Progress, RungResult

Report = Callable[[dict[str, Any]], None]
"""Takes one event: `{"event": "progress" | "rung" | "test" | "log", ...}`. Called on rank 0 only."""

VALIDATION, TEST = "validation", "test"


PHASES = ("setup", "beliefs", "steps", "evaluation", "verdicts", "weights")
"""Where the time of a trial goes: a reset, sampling, steps, measuring, waiting for the driver, writing weights; and `checkpoints`."""

LOG_LINES = 10
"""Lines about steps in a trial's log."""


@dataclass(frozen=True)
class TrialResult:
    """What a trial leaves.

    Attributes:
        metrics: Last rung's metrics; keys such as `validation/utility`, `test/utility`, `train/loss`.
        seconds: Time by phase: see `PHASES`.
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
    retain_loss: float
    """Mean per answer token of the retain partners (on activations, per response); 0 where nothing is retained."""
    retain_weight: float | None = None
    """The dual variable, where there is one."""

    @property
    def metrics(self) -> dict[str, float]:
        """As they are reported at a rung."""
        return {f"train/{name}": value for name, value in asdict(self).items() if value is not None}


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
    engine: Engine,
    trial: TrialSettings,
    data: LaneData,
    reference_logp_nats: Mapping[str, Logps],
    at_rungs: AtRungs,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> TrialResult:
    """Unlearn from the pristine weights, or go on from a checkpoint of the same trial.

    Args:
        engine: Engine whose pristine weights are the model to unlearn.
        trial: Everything that decides the result.
        data: Encoded forget and retain set.
        reference_logp_nats: Log-probabilities of each forget response's tokens under the original model, by example id.
        at_rungs: Measures, judges and keeps the policy.
        report: Told about steps and rungs, on rank 0.
        checkpoints: Where the trial's inner state is kept; None: nowhere.

    Raises:
        TrialFailedError: A loss, gradient or metric is not a finite number.

    Ranks: all.
    """
    began = time.perf_counter()
    torch.manual_seed(trial.seed)
    engine.reset(trial)
    course = course_of(trial, len(data.forget))
    progress, ended = Progress(), None
    if checkpoints is not None:
        progress, ended = _take_up(engine, checkpoints, course, at_rungs, report)
    if ended is not None:
        return ended
    clock = Clock(progress.seconds, began)
    clock.lap("setup")
    composition = compose(engine, trial, data, reference_logp_nats, progress)
    clock.lap("beliefs")
    for step in range(progress.step, course.steps):
        if trial.sequence_beliefs and step % course.refresh_every == 0:
            composition = replace(composition, beliefs=_refresh(engine, trial, data, step // course.refresh_every))
            clock.lap("beliefs")
        rate = learning_rate(step, course.steps, trial.optimizer.learning_rate, course.warmup, trial.optimizer.schedule)
        result = train_step(engine, composition, step, rate)
        weight = next_weight(trial, composition.retain_weight, result.retain_loss, step / course.steps_per_epoch)
        composition = replace(composition, retain_weight=weight)
        clock.lap("steps")
        _check_finite({"loss": result.loss, "gradient norm": result.gradient_norm}, step)
        if engine.rank == 0:
            _report_step(report, step, course.steps, result, rate)
        if step + 1 in course.rungs:
            verdict = _at_rung(engine, at_rungs, report, course, step, result, progress.rungs, clock)
            if step + 1 < course.steps and not verdict.go_on:
                return TrialResult(progress.rungs[-1].metrics, clock.seconds, verdict.reason or "stopped")
        if checkpoints is not None and step + 1 < course.steps and checkpoints.is_due(step + 1):
            state = Progress(step + 1, composition.beliefs, progress.rungs, composition.retain_weight, clock.seconds)
            checkpoints.write(state)
            clock.lap("checkpoints")
    return TrialResult(progress.rungs[-1].metrics, clock.seconds)


def compose(
    engine: Engine, trial: TrialSettings, data: LaneData, reference_logp_nats: Mapping[str, Logps], progress: Progress
) -> Composition:
    """All that the steps are made of, as it is after `progress`. Ranks: all."""
    return Composition(
        trial=trial,
        forget=data.forget,
        retain=data.retain,
        reference_logp_nats=reference_logp_nats,
        beliefs=progress.beliefs,
        preferred=preferred_answers(engine, data, trial),
        steering=steering_of(engine, trial),
        retain_weight=starting_weight(trial) if progress.retain_weight is None else progress.retain_weight,
    )


def steering_of(engine: Engine, trial: TrialSettings) -> Steering | None:
    """Where a method on activations takes them, and where it wants them; None for the others."""
    if not isinstance(METHODS[trial.forget.method], ActivationMethod):
        return None
    config, settings = engine.hf_config.get_text_config(), trial.forget.steering
    layer = steered_layer(settings.layer, config.num_hidden_layers)
    return Steering(layer, random_direction(config.hidden_size, settings.coefficient, trial.seed))


def _take_up(
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


def _report_step(report: Report, step: int, steps: int, result: StepResult, rate: float) -> None:
    report({"event": "progress", "step": step + 1, "steps": steps, "loss": result.loss})
    if step % max(1, steps // LOG_LINES) == 0:
        line = f"step {step + 1}/{steps}: loss {result.loss:.4g}, gradient norm {result.gradient_norm:.4g}, learning rate {rate:.3g}"
        report({"event": "log", "line": line})


def _at_rung(
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
    _check_finite(metrics, step)
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
            _check_finite(test, step)
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


def train_step(engine: Engine, composition: Composition, step: int, rate: float) -> StepResult:
    """One optimizer step on the global batch of `step`. Ranks: all."""
    trial = composition.trial
    drawn = global_batch(trial.seed, step, len(composition.forget), len(composition.retain), trial.optimizer.global_batch)
    pairs = composition.longest_first(drawn)
    epoch = step // steps_per_epoch(len(composition.forget), trial.optimizer.global_batch)
    loss = guarded = belief_rows = retain_nats = 0.0
    for part in share(pairs, engine.rank, engine.world_size, trial.optimizer.micro_batch):
        batch, plan = composition.micro_batch(part, pairs, epoch)
        if composition.needs_reference_pass:
            plan = engine.with_reference(batch, plan)
        output = engine.backward(batch, plan)
        loss += float(output.loss.detach())
        for term, planned in zip(output.terms, plan.terms, strict=True):
            if planned.kind == "forget":
                guarded, belief_rows = guarded + term.guarded_rows, belief_rows + term.rows
            elif planned.kind == composition.retain_kind:
                retain_nats += term.loss
    norm = engine.step(rate)
    loss, guarded, belief_rows, retain_nats = engine.sum([loss, guarded, belief_rows, retain_nats])
    retain_loss = retain_nats / max(1, composition.retain_count(pairs))
    return StepResult(loss, norm, guarded / max(1.0, belief_rows), retain_loss, composition.retain_weight)


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
    """Adds up where the time goes since `began`, beside what was measured `before`."""

    def __init__(self, before: Mapping[str, float], began: float) -> None:
        self.seconds: dict[str, float] = {**dict.fromkeys(PHASES, 0.0), **before}
        self._last = began

    def lap(self, name: str) -> None:
        """Count the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
