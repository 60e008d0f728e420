"""One unlearning trial, from the pristine weights to its last rung. Independent of Ray: it calls `report`."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from search_spaces.settings.trial_settings import TrialSettings
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.data.batches import global_batch, share, steps_per_epoch
from trainables.engine.zero3_engine import Engine
from trainables.events import LineLogged, Report, StepDone
from trainables.generation.inference import Logps
from trainables.generation.preferred_answers import preferred_answers
from trainables.generation.sequence_beliefs import sample_beliefs
from trainables.losses.head_plan import Steering
from trainables.losses.methods import METHODS, ActivationMethod
from trainables.losses.retain import next_weight, starting_weight
from trainables.losses.steering import random_direction, steered_layer
from trainables.training.batch_packing import PackedBatches
from trainables.training.checkpoints import Checkpoints
from trainables.training.rungs import AtRungs, check_finite, reach_rung, resume_trial
from trainables.training.trial_schedule import TrialSchedule, learning_rate, schedule_of
from trainables.training.trial_state import Clock, StepResult, TrialResult, TrialState

LOG_LINES = 10
"""Number of lines about steps in a trial's log."""


def run_trial(
    engine: Engine,
    trial: TrialSettings,
    data: EncodedBenchmark,
    reference_logp_nats: Mapping[str, Logps],
    at_rungs: AtRungs,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> TrialResult:
    """Unlearn from the pristine weights, or resume from a checkpoint of the same trial.

    Args:
        engine: Engine whose pristine weights are the model to unlearn.
        trial: Settings that the result depends on.
        data: Encoded forget and retain set.
        reference_logp_nats: Log-probabilities of each forget response's tokens under the original model, by
            example id.
        at_rungs: Functions that evaluate the policy, decide on the trial and save weights.
        report: Receives events about steps and rungs on rank 0.
        checkpoints: Checkpoints of the trial's state; None: none are written.

    Returns:
        Metrics of the last rung, seconds by phase, and the reason if the trial ended early.

    Raises:
        TrialFailedError: A loss, gradient or metric is not a finite number.

    Ranks: all.
    """
    began = time.perf_counter()
    # Seeded before the reset, so that a warm lane draws the same random numbers as a fresh process.
    torch.manual_seed(trial.seed)
    engine.reset(trial)
    schedule = schedule_of(trial, len(data.forget))
    state = TrialState()
    if checkpoints is not None:
        state, ended = resume_trial(engine, checkpoints, schedule, at_rungs, report)
        if ended is not None:
            return ended
    clock = Clock(state.seconds, began)
    clock.lap("setup")
    packed_batches = pack_batches(engine, trial, data, reference_logp_nats, state)
    clock.lap("beliefs")
    for step in range(state.step, schedule.steps):
        packed_batches, result = _advance(engine, data, packed_batches, schedule, step, report, clock)
        if step + 1 in schedule.rungs:
            decision = reach_rung(engine, at_rungs, report, schedule, step, result, state.rungs, clock)
            # At the last rung the trial has ended anyway, and is not reported as stopped.
            if step + 1 < schedule.steps and not decision.go_on:
                return TrialResult(state.rungs[-1].metrics, clock.seconds, decision.reason or "stopped")
        # Behind the rung, so that a resumed trial finds its result in the state.
        if checkpoints is not None and step + 1 < schedule.steps and checkpoints.is_due(step + 1):
            beliefs, weight = packed_batches.beliefs, packed_batches.retain_weight
            checkpoints.write(TrialState(step + 1, beliefs, state.rungs, weight, clock.seconds))
            clock.lap("checkpoints")
    return TrialResult(state.rungs[-1].metrics, clock.seconds)


def _advance(
    engine: Engine,
    data: EncodedBenchmark,
    packed_batches: PackedBatches,
    schedule: TrialSchedule,
    step: int,
    report: Report,
    clock: Clock,
) -> tuple[PackedBatches, StepResult]:
    """Take one step of a trial, with a refresh of beliefs before it where one is due. Ranks: all.

    Returns:
        The batches of the next step, with new beliefs and dual variable, and the result of this step.
    """
    trial = packed_batches.trial
    if trial.sequence_beliefs and step % schedule.refresh_every == 0:
        packed_batches = replace(
            packed_batches, beliefs=_refresh(engine, trial, data, step // schedule.refresh_every)
        )
        clock.lap("beliefs")
    rate = learning_rate(
        step, schedule.steps, trial.optimizer.learning_rate, schedule.warmup, trial.optimizer.schedule
    )
    result = train_step(engine, packed_batches, step, rate)
    weight = next_weight(
        trial, packed_batches.retain_weight, result.retain_loss, step / schedule.steps_per_epoch
    )
    packed_batches = replace(packed_batches, retain_weight=weight)
    clock.lap("steps")
    # Loss and norm are equal on every rank, so all of them raise here, or none does.
    check_finite({"loss": result.loss, "gradient norm": result.gradient_norm}, step)
    if engine.rank == 0:
        _report_step(report, step, schedule.steps, result, rate)
    return packed_batches, result


def pack_batches(
    engine: Engine,
    trial: TrialSettings,
    data: EncodedBenchmark,
    reference_logp_nats: Mapping[str, Logps],
    state: TrialState,
) -> PackedBatches:
    """Collect the inputs of all steps as they are after `state`; draws preferred answers. Ranks: all."""
    return PackedBatches(
        trial=trial,
        forget=data.forget,
        retain=data.retain,
        reference_logp_nats=reference_logp_nats,
        beliefs=state.beliefs,
        preferred=preferred_answers(engine, data, trial),
        steering=steering_of(engine, trial),
        retain_weight=starting_weight(trial) if state.retain_weight is None else state.retain_weight,
    )


def steering_of(engine: Engine, trial: TrialSettings) -> Steering | None:
    """Return layer and target vector of an activation method; None for other methods."""
    if not isinstance(METHODS[trial.forget.method], ActivationMethod):
        return None
    # Multimodal models keep the sizes of their decoder in a nested text configuration.
    config, settings = engine.hf_config.get_text_config(), trial.forget.steering
    layer = steered_layer(settings.layer, config.num_hidden_layers)
    return Steering(layer, random_direction(config.hidden_size, settings.coefficient, trial.seed))


def _report_step(report: Report, step: int, steps: int, result: StepResult, rate: float) -> None:
    # The terminal shows every step, but the trial's log keeps only about `LOG_LINES` of them.
    report(StepDone(step + 1, steps, result.loss))
    if step % max(1, steps // LOG_LINES) == 0:
        line = (
            f"step {step + 1}/{steps}: loss {result.loss:.4g}, gradient norm {result.gradient_norm:.4g},"
            f" learning rate {rate:.3g}"
        )
        report(LineLogged(line))


def train_step(engine: Engine, packed_batches: PackedBatches, step: int, rate: float) -> StepResult:
    """Take one optimizer step on the global batch of `step`. Ranks: all."""
    trial = packed_batches.trial
    drawn = global_batch(
        trial.seed, step, len(packed_batches.forget), len(packed_batches.retain), trial.optimizer.global_batch
    )
    # Sorted by length before it is cut into micro-batches, which then have little padding. The sum over the
    # global batch does not depend on the cut.
    pairs = packed_batches.longest_first(drawn)
    # The epoch selects the preferred answers, which take turns.
    epoch = step // steps_per_epoch(len(packed_batches.forget), trial.optimizer.global_batch)
    loss = guarded = belief_rows = retain_nats = 0.0
    for part in share(pairs, engine.rank, engine.world_size, trial.optimizer.micro_batch):
        batch, plan = packed_batches.micro_batch(part, pairs, epoch)
        if packed_batches.needs_reference_pass:
            plan = engine.with_reference(batch, plan)
        output = engine.backward(batch, plan)
        loss += float(output.loss.detach())
        for term, planned in zip(output.terms, plan.terms, strict=True):
            if planned.kind == "forget":
                guarded, belief_rows = guarded + term.guarded_rows, belief_rows + term.rows
            elif planned.kind == packed_batches.retain_kind:
                # The sum without the retain weight: the dual variable compares the mean loss itself with its
                # bound.
                retain_nats += term.loss
    # The sums below are over micro-batches and ranks, so they are gathered once per step.
    norm = engine.step(rate)
    loss, guarded, belief_rows, retain_nats = engine.sum([loss, guarded, belief_rows, retain_nats])
    retain_loss = retain_nats / max(1, packed_batches.retain_count(pairs))
    return StepResult(loss, norm, guarded / max(1.0, belief_rows), retain_loss, packed_batches.retain_weight)


def _refresh(engine: Engine, trial: TrialSettings, data: EncodedBenchmark, refresh: int) -> Any:
    return sample_beliefs(
        engine,
        data.forget,
        trial.sequence_belief,
        trial.engine,
        seed=trial.seed,
        refresh=refresh,
        with_reference=METHODS[trial.forget.method].needs_reference,
    )
