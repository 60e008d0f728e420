"""One unlearning trial, from pristine weights to its last rung. Knows no Ray: `report` is all it tells the world."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from search_spaces.settings.trial_settings import TrialSettings
from trainables.benchmarks.encoded_benchmark import LaneData
from trainables.data.batches import global_batch, share, steps_per_epoch
from trainables.engine.zero3_engine import Engine
from trainables.generation.inference import Logps
from trainables.generation.preferred_answers import preferred_answers
from trainables.generation.sequence_beliefs import sample_beliefs
from trainables.losses.head_plan import Steering
from trainables.losses.methods import METHODS, ActivationMethod
from trainables.losses.retain import next_weight, starting_weight
from trainables.losses.steering import random_direction, steered_layer
from trainables.training.batch_packing import Composition
from trainables.training.checkpoints import Checkpoints
from trainables.training.rungs import AtRungs, Report, check_finite, reach_rung, resume_trial
from trainables.training.trial_schedule import course_of, learning_rate
from trainables.training.trial_state import Clock, Progress, StepResult, TrialResult

LOG_LINES = 10
"""Lines about steps in a trial's log."""


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
        progress, ended = resume_trial(engine, checkpoints, course, at_rungs, report)
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
        check_finite({"loss": result.loss, "gradient norm": result.gradient_norm}, step)
        if engine.rank == 0:
            _report_step(report, step, course.steps, result, rate)
        if step + 1 in course.rungs:
            verdict = reach_rung(engine, at_rungs, report, course, step, result, progress.rungs, clock)
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


def _report_step(report: Report, step: int, steps: int, result: StepResult, rate: float) -> None:
    report({"event": "progress", "step": step + 1, "steps": steps, "loss": result.loss})
    if step % max(1, steps // LOG_LINES) == 0:
        line = f"step {step + 1}/{steps}: loss {result.loss:.4g}, gradient norm {result.gradient_norm:.4g}, learning rate {rate:.3g}"
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


