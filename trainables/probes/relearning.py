"""Relearning probe: fine-tunes a policy for a few steps and restores it afterwards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from search_spaces.settings.model_settings import PrepareSettings
from search_spaces.settings.probe_settings import RelearnSettings
from search_spaces.settings.trial_settings import OptimizerSettings, TrialSettings
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.data.encoding import Encoded
from trainables.data.examples import draw_by_hash
from trainables.engine.zero3_engine import Engine, Weights
from trainables.training.preparation import train_steps

WARMUP_STEPS = 2


def slices(data: EncodedBenchmark, share: float) -> tuple[list[Encoded], list[Encoded]]:
    """Draw a slice of the forget set, and as many retain examples for the control.

    Args:
        data: The encoded benchmark.
        share: Share of the forget set; at least one example, and never all of two or more.
    """
    # At least one forgotten fact must stay out, or nothing would be left to come back. The draw by hash gives
    # every model of a sweep the same slices.
    count = min(max(1, round(share * len(data.forget))), max(1, len(data.forget) - 1))
    chosen = {example.id for example in draw_by_hash(data.benchmark.forget, count)}
    unrelated = {example.id for example in draw_by_hash(data.benchmark.retain, count)}
    return [item for item in data.forget if item.id in chosen], [
        item for item in data.retain if item.id in unrelated
    ]


@contextmanager
def fine_tuned(
    engine: Engine,
    encoded: Sequence[Encoded],
    settings: RelearnSettings,
    trial: TrialSettings,
    weights: Weights,
) -> Iterator[None]:
    """Train the policy for a few steps; on exit restore it, with optimizer state and random state.

    Args:
        engine: Engine whose policy is trained.
        encoded: Training examples.
        settings: Number of steps, batch size and learning rate.
        trial: The settings that the engine was last reset with.
        weights: Start from the `policy`, in the middle of a trial, or from the `pristine` model, between
            trials.

    Ranks: all.
    """
    # Cloned, since `training_state` returns the engine's own tensors, which the steps below change.
    kept = (
        {name: tensor.clone() for name, tensor in engine.training_state().items()}
        if weights == "policy"
        else {}
    )
    optimizer = OptimizerSettings(learning_rate=settings.learning_rate, weight_decay=0.0)
    engine.reset(trial.model_copy(update={"optimizer": optimizer}))
    # Weights alone: the fine-tuning starts with fresh optimizer moments.
    if kept:
        engine.restore(kept, only_weights=True)
    schedule = PrepareSettings(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=min(WARMUP_STEPS, settings.steps),
        # A larger batch would repeat the same few examples, at the same gradient and more cost.
        global_batch=min(settings.batch, len(encoded)),
        micro_batch=trial.optimizer.micro_batch,
    )
    try:
        rate_key = "evaluation.probe.relearn.learning_rate"
        train_steps(engine, encoded, schedule, trial.engine, rate_key=rate_key)
        yield
    finally:
        engine.reset(trial)
        if kept:
            engine.restore(kept)
