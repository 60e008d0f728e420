"""Prints `lethe plan --gpus`: memory per rank, lanes, time and disk on GPUs described on the command line."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console

from cluster.capacity.layouts import Cluster, demanding_trial, describe_lanes, require_layout
from cluster.capacity.model_shapes import ModelShape, shape_of
from cluster.capacity.rank_memory import CPU_PROCESS, GIB, Lengths, RankMemory, memory_of_rank
from cluster.capacity.trained_tensors import trained_tensors
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.table import Column, Table
from orchestrator.terminal.rich_tables import rich_table, say
from search_spaces.settings.engine_defaults import reduce_bucket
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.data.examples import Benchmark

CHARACTERS_PER_TOKEN = 3
"""Characters per token of English text are about four; three makes estimated lengths rather too long."""
TEMPLATE_TOKENS = 40
"""Tokens that a chat template adds to a prompt and its response: Llama 3's adds 30 to 40 with its dates."""
FRONT_MEMBERS = 20
"""Assumed number of front members, of which the weights are kept: the quickstart's front had 17."""

CHECKPOINT_BYTES = 12
"""Bytes of a checkpoint per parameter: the master weight and AdamW's two moments, in float32."""


@dataclass(frozen=True)
class ScaleOptions:
    """Options of the command line that describe a cluster."""

    cluster: Cluster | None = None
    """The GPUs; None for this machine."""
    shape: str | None = None
    """Shape of the model as `--model-shape` names it; None: read from its configuration."""
    step_time_s: float | None = None
    """Seconds per optimizer step of a trial, with its share of beliefs and evaluation."""
    sequence_tokens: int | None = None
    """Tokens of the longest example; estimated from its characters when left out."""


def show_scale(
    sweep: SweepSettings, file: str, benchmark: Benchmark, steps: int, options: ScaleOptions, console: Console
) -> None:
    """Prints what the sweep would need on the GPUs of `options`.

    Raises:
        UserError: The layout cannot start there; the message names the nearest that can.
    """
    assert options.cluster is not None
    cluster = options.cluster
    shape = _shape(sweep, options, file)
    lengths = lengths_of(sweep, benchmark, options.sequence_tokens)
    found = require_layout(sweep, shape, lengths, cluster, file)
    # A plan for GPUs is also useful for a sweep file that was written for CPUs.
    workers, lanes = sweep.resources.workers_per_trial, len(found.lanes)
    if not sweep.resources.gpus_per_worker:
        say(console, "resources.gpus_per_worker is 0 in this sweep: planned with 1")
    say(
        console,
        f"model: {shape.name}, {shape.parameters:,} parameters; longest example: {lengths.sequence} tokens",
    )
    console.print(rich_table(memory_table(found.memory, workers, cluster.gpu_memory)))
    say(console, f"memory per rank, phase by phase: {describe_phases(found.memory)}")
    say(console, describe_zero(sweep, shape))
    if any(key.startswith("offload") for key in sweep.trial.deepspeed.get("zero_optimization", {})):
        say(
            console,
            "trial.deepspeed offloads to host memory or disk, which is not counted: GPUs need less than this",
        )
    say(console, f"smallest workers_per_trial that fits: {found.smallest_workers}")
    limit = (
        f" (resources.max_lanes is {sweep.resources.max_lanes})" if sweep.resources.max_lanes == lanes else ""
    )
    say(
        console,
        f"lanes on {cluster.gpus} GPUs: {lanes} of {workers} workers{limit}: {describe_lanes(found.lanes)}",
    )
    say(console, describe_host_memory(sweep, shape, cluster, found.lanes))
    _show_time(sweep, steps, lanes, options.step_time_s, console)
    _show_disk(sweep, shape, lanes, console)


def show_memory_here(
    sweep: SweepSettings, benchmark: Benchmark, options: ScaleOptions, console: Console
) -> None:
    """Prints the predicted memory of a worker on this machine's CPUs, or why it is not known."""
    try:
        shape = shape_of(sweep.model, options.shape)
    except UserError as error:
        if options.shape is not None:
            raise
        say(console, f"memory per worker: not known; {error.remedy}")
        return
    lengths = lengths_of(sweep, benchmark, options.sequence_tokens)
    workers = sweep.resources.workers_per_trial
    memory = memory_of_rank(shape, sweep.model, demanding_trial(sweep), lengths, workers, gpu=False)
    total = memory.peak + CPU_PROCESS
    say(
        console,
        f"memory per worker on CPUs: about {total / GIB:.2f} GiB at its peak ({memory.worst_phase}),"
        f" {workers * total / GIB:.2f} GiB per lane",
    )
    say(console, describe_zero(sweep, shape))


def lengths_of(sweep: SweepSettings, benchmark: Benchmark, sequence_tokens: int | None) -> Lengths:
    """Estimates the tokens of the longest example from its characters, without loading a tokenizer."""
    examples = [*benchmark.forget, *benchmark.retain]
    extra = TEMPLATE_TOKENS + len(sweep.model.system_prompt or "") // CHARACTERS_PER_TOKEN
    if sweep.model.base == "scratch" and sweep.model.target is None:
        # The template of models that are trained from scratch adds three tokens.
        extra = 3
    prompt = max((len(example.prompt) for example in examples), default=0) // CHARACTERS_PER_TOKEN + extra
    longest = (
        max((len(example.prompt) + len(example.response) for example in examples), default=0)
        // CHARACTERS_PER_TOKEN
        + extra
    )
    return Lengths(sequence_tokens or longest, min(prompt, sequence_tokens or prompt))


def measured_step_s(records: list[TrialRecord], steps: int, name: str) -> float:
    """Returns the median seconds per step of an earlier sweep's trials, with beliefs and evaluation.

    Args:
        records: The trials of the earlier sweep.
        steps: Steps of one of its trials.
        name: Its name, for the message.

    Raises:
        UserError: No trial has finished.
    """
    times = [
        record.duration_s
        for record in records
        if record.status == "finished" and record.duration_s is not None
    ]
    if not times:
        raise UserError(
            "no trial of this sweep has finished",
            key="--from-sweep",
            value=name,
            remedy="give --step-time-s in its place",
        )
    return median(times) / steps


def describe_host_memory(
    sweep: SweepSettings, shape: ModelShape, cluster: Cluster, lanes: Sequence[tuple[int, ...]]
) -> str:
    """Describes the host memory of the fullest node: every rank reads the whole model before it keeps its
    shard."""
    ranks = max(Counter(node for lane in lanes for node in lane).values())
    model = shape.parameters * (2 if sweep.model.dtype == "bfloat16" else 4)
    gib = ranks * (model + CPU_PROCESS) / GIB
    return (
        f"host memory of a node when its lanes start: up to {gib:.0f} GiB, {ranks} ranks that each read"
        f" {model / GIB:.1f} GiB of weights"
    )


def describe_zero(sweep: SweepSettings, shape: ModelShape) -> str:
    """Describes the ZeRO-3 settings for this model, and where they come from."""
    trial = demanding_trial(sweep)
    trained = sum(trained_tensors(shape, trial).values())
    given = trial.deepspeed.get("zero_optimization", {}).get("reduce_bucket_size")
    size = reduce_bucket(trained) if given is None else int(given)
    why = (
        "as trial.deepspeed says"
        if given is not None
        else "all that is trained"
        if size >= trained
        else "its usual size"
    )
    mib = size * (2 if sweep.model.dtype == "bfloat16" else 4) / 1024**2
    return (
        f"ZeRO-3: a gradient bucket of {size:,} elements ({why}), {mib:,.0f} MiB; no weight stays gathered"
        " between steps"
    )


def describe_phases(memory: RankMemory) -> str:
    """Returns the memory of each phase: `start 1.2 GiB, optimizer step 3.4 GiB`."""
    return ", ".join(f"{name} {sum(parts.values()) / GIB:.1f} GiB" for name, parts in memory.phases.items())


def _shape(sweep: SweepSettings, options: ScaleOptions, file: str) -> ModelShape:
    try:
        return shape_of(sweep.model, options.shape)
    except UserError as error:
        raise error.in_file(file) from error


def memory_table(memory: RankMemory, workers: int, budget: float) -> Table:
    """Returns the memory of one rank by its parts, and below them the peak beside the GPU's memory."""
    columns = [Column("part"), Column("GiB", "{:.2f}".format, right=True)]
    rows = [[part, size / GIB] for part, size in memory.parts.items()]
    foot = [[f"fits into {budget / GIB:g} GiB", memory.peak / GIB]]
    return Table(columns, rows, foot, f"one rank of {workers}: {memory.worst_phase}")


def _show_time(
    sweep: SweepSettings, steps: int, lanes: int, step_time_s: float | None, console: Console
) -> None:
    trials = sweep.search.trials
    in_a_row = math.ceil(trials / lanes)
    if step_time_s is None:
        say(
            console,
            f"time: {in_a_row} trials in a row of {steps} steps; give --step-time-s or --from-sweep for"
            " hours",
        )
        return
    trial_s = steps * step_time_s
    gpu_hours = trials * trial_s * sweep.resources.workers_per_trial / 3600
    say(
        console,
        f"time at {step_time_s:g} s per step: {trial_s / 60:.1f} min per trial, {in_a_row} trials in a row: "
        f"{in_a_row * trial_s / 3600:.1f} h; {gpu_hours:.1f} GPU-hours at work",
    )


def _show_disk(sweep: SweepSettings, shape: ModelShape, lanes: int, console: Console) -> None:
    model = shape.parameters * (2 if sweep.model.dtype == "bfloat16" else 4) / GIB
    # The original model, and the retrained one where there is one.
    models = 1 + (sweep.model.retrained is not None or sweep.model.base is not None)
    members = min(FRONT_MEMBERS, sweep.search.trials * sweep.trial.rungs)
    say(
        console,
        f"disk: {models} models of {model:.1f} GiB; a front of {members} members {members * model:.1f} GiB;"
        f" together {(models + members) * model:.1f} GiB",
    )
    if sweep.resources.checkpoint_steps:
        one = shape.parameters * CHECKPOINT_BYTES / GIB
        most = f"{2 * lanes * one:.1f} GiB more"
        say(
            console,
            f"checkpoints: {one:.1f} GiB per lane, and twice that while the next one is written: up to"
            f" {most}",
        )
