"""Prepares models: trains the target or the retrained model with the same engine that unlearns."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from search_spaces.settings.model_settings import PrepareSettings
from search_spaces.settings.trial_settings import EngineSettings, OptimizerSettings, TrialSettings
from trainables.benchmarks.registry import load_benchmark
from trainables.data.batches import plain_batch, share
from trainables.data.collate import collate
from trainables.data.encoding import Encoded
from trainables.durable_files import new_folder, partial_path, rename_folder
from trainables.engine.zero3_engine import Engine
from trainables.events import Report, StepDone, TrialFailedError
from trainables.jobs import PrepareJob
from trainables.losses.head_plan import HeadPlan, HeadTerm
from trainables.training.scratch_model import build_scratch_model, train_tokenizer
from trainables.training.trial_schedule import learning_rate

FINAL_RATE_FRAC = 0.1
"""Share of the peak learning rate at the end of the cosine schedule."""


def write_scratch_model(job: PrepareJob) -> None:
    """Write a small random Llama and a tokenizer trained on the target's text. Ranks: 0.

    The tokenizer is trained on the forget set for the retrained model too, since the two models are compared
    token by token.
    """
    scratch = job.model.scratch
    text = load_benchmark(job.data, redact=True).target_text
    tokenizer = train_tokenizer(
        [part for example in text for part in (example.prompt, example.response)], scratch.vocabulary
    )
    model = build_scratch_model(scratch, len(tokenizer), scratch.seed)
    initial = Path(job.initial)
    try:
        with new_folder(initial) as partial:
            tokenizer.save_pretrained(partial)
            model.save_pretrained(partial)
    except OSError:
        # If another lane was faster, it has written the same model, which depends on the seed alone.
        if not initial.is_dir():
            raise


def train_on_text(
    engine: Engine,
    encoded: list[Encoded],
    settings: PrepareSettings,
    engine_settings: EngineSettings,
    report: Report,
) -> float:
    """Train on the negative log-likelihood of answers, from freshly reset weights.

    Args:
        engine: Engine whose policy is trained.
        encoded: Training examples.
        settings: Steps, batch sizes, learning rate and seed.
        engine_settings: Settings of the engine, such as the head's chunk.
        report: Called on rank 0 with the progress of each step.

    Returns:
        The loss of the last step, in nats per answer token.

    Raises:
        TrialFailedError: The loss is not a finite number.

    Ranks: all.
    """
    torch.manual_seed(settings.seed)
    optimizer = OptimizerSettings(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        gradient_clip=settings.gradient_clip,
    )
    engine.reset(TrialSettings(seed=settings.seed, optimizer=optimizer, engine=engine_settings))
    return train_steps(engine, encoded, settings, engine_settings, report)


def train_steps(
    engine: Engine,
    encoded: Sequence[Encoded],
    settings: PrepareSettings,
    engine_settings: EngineSettings,
    report: Report = lambda event: None,
    rate_key: str = "model.prepare.learning_rate",
) -> float:
    """Train like `train_on_text`, but from the engine's current weights and optimizer state.

    Ranks: all. `rate_key` is the setting that a failure names.
    """
    loss = math.nan
    for step in range(settings.steps):
        indices = plain_batch(settings.seed, step, len(encoded), settings.global_batch)
        # Every rank counts the whole global batch, so the division needs no communication.
        tokens = sum(len(encoded[index].ids) - encoded[index].prompt_length for index in indices)
        local = 0.0
        for part in share(indices, engine.rank, engine.world_size, settings.micro_batch):
            batch = collate([encoded[index] for index in part], pad_id=0)
            term = HeadTerm(
                rows=slice(0, len(batch.targets_N)),
                kind="nll",
                coefficient=1 / tokens,
                sequence_N=batch.sequence_N,
                lengths_S=batch.lengths_B,
            )
            # The loss is reported only; `backward` has already added the gradients.
            local += float(
                engine.backward(
                    batch,
                    HeadPlan(
                        targets_N=batch.targets_N, terms=(term,), chunk=engine_settings.head_chunk_tokens
                    ),
                ).loss.detach()
            )
        # Preparation always decays to a tenth of the peak; only trials search over schedules.
        rate = learning_rate(
            step, settings.steps, settings.learning_rate, settings.warmup_steps, "cosine", FINAL_RATE_FRAC
        )
        engine.step(rate)
        (loss,) = engine.sum([local])
        if not math.isfinite(loss):
            raise TrialFailedError(f"loss is {loss} after step {step + 1}; lower {rate_key}")
        if engine.rank == 0:
            report(StepDone(step + 1, settings.steps, loss))
    return loss


def save_policy(engine: Engine, output: Path) -> None:
    """Save the policy to a folder that is complete or not there, also after a power cut. Ranks: all."""
    # Rank 0 alone writes, so the name need not be the same on all ranks.
    partial = partial_path(output)
    engine.save(partial)
    if engine.rank == 0:
        # An earlier attempt of the trial may have left a folder of this name, and a rename needs the name
        # free.
        shutil.rmtree(output, ignore_errors=True)
        rename_folder(partial, output)
    # All ranks must reach this barrier: none may read the folder before it has its final name.
    dist.barrier()
