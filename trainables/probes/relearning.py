"""Fine-tunes a policy for a moment, to see whether what was forgotten comes back; afterwards the policy is as
it was."""

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
    """A slice of the forget set, and as many retain examples for the control; drawn by hash, so that every
    model gets the same.

    Args:
        data: What was forgotten and what was retained.
        share: Of the forget set; at least one example, and never all where there are two.
    """
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
    """The policy trained on examples for a few steps; on leaving it is as it was, optimizer and random
    numbers included.

    Args:
        engine: Its policy is trained.
        encoded: What it is trained on.
        settings: How long and how fast.
        trial: The settings that the engine stands under.
        weights: Start from the `policy`, in the middle of a trial, or from the `pristine` model, between
            trials.

    Ranks: all.
    """
    kept = (
        {name: tensor.clone() for name, tensor in engine.training_state().items()}
        if weights == "policy"
        else {}
    )
    optimizer = OptimizerSettings(learning_rate=settings.learning_rate, weight_decay=0.0)
    engine.reset(trial.model_copy(update={"optimizer": optimizer}))
    if kept:
        engine.restore(kept, only_weights=True)
    schedule = PrepareSettings(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=min(WARMUP_STEPS, settings.steps),
        # A batch of copies of the same few examples would only be slower.
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
