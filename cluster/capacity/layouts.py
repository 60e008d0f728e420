"""Checks whether a sweep's layout fits on a described cluster, and finds the nearest layout that does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cluster.capacity.lane_capacity import Capacity, capacity_of, layout
from cluster.capacity.model_shapes import ModelShape
from cluster.capacity.rank_memory import GIB, Lengths, RankMemory, memory_of_rank
from search_spaces.catalogue.method_catalogue import METHODS
from search_spaces.settings.space import Domain
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.settings.trial_settings import Beliefs, TrialSettings
from search_spaces.user_errors import UserError

Fits = Callable[[TrialSettings, int], bool]


@dataclass(frozen=True)
class Cluster:
    """A cluster that is described by its GPUs and need not exist yet."""

    gpus: int
    """Total number of GPUs."""
    gpu_memory: float
    """Memory of each GPU in bytes."""
    gpus_per_node: int = 8
    """GPUs per node; the last node has the remainder."""

    def nodes(self, cpus_per_worker: float) -> list[Mapping[str, float]]:
        """Returns the nodes as Ray would report them, with enough CPUs for one worker per GPU."""
        full, rest = divmod(self.gpus, self.gpus_per_node)
        return [
            {"GPU": float(gpus), "CPU": gpus * cpus_per_worker}
            for gpus in [self.gpus_per_node] * full + [rest] * (rest > 0)
        ]


@dataclass(frozen=True)
class Layout:
    """A layout that can start."""

    memory: RankMemory
    """Memory of one rank."""
    lanes: Sequence[tuple[int, ...]]
    """For each lane the node of each worker."""
    smallest_workers: int
    """The fewest workers per trial that fit with the sweep's other settings."""


def demanding_trial(sweep: SweepSettings) -> TrialSettings:
    """Returns the trial with the highest memory demand that the search space allows.

    Each searched key that affects memory is set to its most demanding value; the combination need not be
    reachable in the space.
    """
    trial, space = sweep.trial, sweep.space
    kinds = [str(value) for value in _values(space.get("beliefs"), trial.beliefs)]
    token, sequence = (any(kind in value for value in kinds) for kind in ("token", "sequence"))
    beliefs: Beliefs = (
        "token+sequence" if token and sequence else "token" if token else "sequence" if sequence else "none"
    )
    # KL needs the original's logits in addition to what NLL needs; a loss on activations needs no head.
    losses = [str(value) for value in _values(space.get("retain.loss"), trial.retain.loss)]
    loss = next((name for name in ("kl", "nll", "activations") if name in losses), "none")
    method = max(_values(space.get("forget.method"), trial.forget.method), key=_demand)
    batches = {
        name: _largest(space.get(f"optimizer.{name}"), getattr(trial.optimizer, name))
        for name in ("micro_batch", "global_batch")
    }
    samples = {
        name: _largest(space.get(f"sequence_belief.{name}"), getattr(trial.sequence_belief, name))
        for name in ("num_samples", "max_new_tokens")
    }
    return trial.model_copy(
        update={
            "beliefs": beliefs,
            "retain": trial.retain.model_copy(update={"loss": loss}),
            "forget": trial.forget.model_copy(update={"method": method}),
            "optimizer": trial.optimizer.model_copy(update=batches),
            "sequence_belief": trial.sequence_belief.model_copy(update=samples),
        }
    )


def _demand(method: str) -> tuple[bool, ...]:
    """Returns the sort key of a method by its memory demand.

    An additional sequence per example needs most memory, then the original's logits, then retain sequences.
    """
    info = METHODS[method]
    return info.preferred_answers, info.needs_reference_logits, method != "ga"


def require_layout(
    sweep: SweepSettings, shape: ModelShape, lengths: Lengths, cluster: Cluster, file: str
) -> Layout:
    """Plans the sweep's layout on a described cluster.

    Args:
        sweep: Settings; a sweep written for CPUs is planned with one GPU per worker.
        shape: Sizes of the model.
        lengths: Token counts of the longest example.
        cluster: The described cluster.
        file: The sweep file, for messages.

    Returns:
        The layout, with the memory of one rank.

    Raises:
        UserError: A trial has more workers than there are GPUs, or a rank does not fit into a GPU. The
            message names the nearest layouts that fit.
    """
    trial, workers = demanding_trial(sweep), sweep.resources.workers_per_trial
    if workers > cluster.gpus:
        raise UserError(
            "one trial needs more GPUs than there are",
            file=file,
            key="resources.workers_per_trial",
            value=workers,
            allowed=f"at most {cluster.gpus}",
            remedy=f"set resources.workers_per_trial to {cluster.gpus} or less, or plan with more --gpus",
        )

    def fits(candidate: TrialSettings, ranks: int) -> bool:
        return (
            memory_of_rank(shape, sweep.model, candidate, lengths, ranks, gpu=True).peak <= cluster.gpu_memory
        )

    memory = memory_of_rank(shape, sweep.model, trial, lengths, workers, gpu=True)
    smallest = _smallest(fits, trial, cluster.gpus)
    if memory.peak > cluster.gpu_memory:
        raise _refusal(
            sweep, shape, trial, memory, cluster, file, list(_nearest(fits, trial, workers, cluster.gpus))
        )
    resources = sweep.resources.model_copy(update={"gpus_per_worker": 1.0})
    capacity: Capacity = capacity_of(cluster.nodes(resources.cpus_per_worker), resources)
    return Layout(memory, layout(capacity, workers), smallest or workers)


def describe_lanes(lanes: Sequence[tuple[int, ...]]) -> str:
    """Formats lanes as `lanes 1-4 on node 0; lanes 5-8 on node 1`; nodes are counted from 0."""
    texts, first = [], 1
    # Consecutive lanes on the same nodes are listed together.
    for nodes, group in groupby(lanes, key=lambda lane: sorted(set(lane))):
        last = first + len(list(group)) - 1
        where = f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {nodes[0]}-{nodes[-1]}"
        texts.append(f"lane{f's {first}-{last}' if last > first else f' {first}'} on {where}")
        first = last + 1
    return "; ".join(texts)


def _smallest(fits: Fits, trial: TrialSettings, most: int) -> int | None:
    # A linear search: memory need not fall with every additional worker, since tensors are padded.
    return next((workers for workers in range(1, most + 1) if fits(trial, workers)), None)


def _with(trial: TrialSettings, micro_batch: int, **engine: Any) -> TrialSettings:
    return trial.model_copy(
        update={
            "optimizer": trial.optimizer.model_copy(update={"micro_batch": micro_batch}),
            "engine": trial.engine.model_copy(update=engine),
        }
    )


def _nearest(fits: Fits, trial: TrialSettings, workers: int, most: int) -> Iterator[str]:
    """Yields changes that make the trial fit.

    Each change concerns one setting, if necessary together with more workers. If no such change is enough,
    the combination of all memory-saving settings is tried.
    """
    found = False
    smallest = _smallest(fits, trial, most)
    if smallest is not None:
        found = True
        yield f"resources.workers_per_trial to {smallest}"
    micro = trial.optimizer.micro_batch
    smaller = next((size for size in range(micro - 1, 0, -1) if fits(_with(trial, size), workers)), None)
    if smaller is not None:
        found = True
        yield f"trial.optimizer.micro_batch to {smaller}"
    for key, value in (("activation_checkpointing", True), ("inference", "lockstep")):
        changed = _with(trial, micro, **{key: value})
        fewest = _smallest(fits, changed, most)
        # Only worth suggesting if it needs fewer workers than the unchanged settings.
        if fewest is not None and (smallest is None or fewest < smallest):
            found = True
            ranks = "" if fits(changed, workers) else f" and resources.workers_per_trial to {fewest}"
            yield f"trial.engine.{key} to {str(value).lower()}{ranks}"
    if found:
        return
    frugal = _with(trial, 1, activation_checkpointing=True, inference="lockstep")
    smallest = _smallest(fits, frugal, most)
    if smallest is not None:
        yield (
            "trial.engine.inference to lockstep, trial.engine.activation_checkpointing to true,"
            " trial.optimizer.micro_batch to 1 and resources.workers_per_trial to"
            f" {workers if fits(frugal, workers) else smallest}"
        )


def _refusal(
    sweep: SweepSettings,
    shape: ModelShape,
    trial: TrialSettings,
    memory: RankMemory,
    cluster: Cluster,
    file: str,
    nearest: Sequence[str],
) -> UserError:
    workers = sweep.resources.workers_per_trial
    largest = max(memory.parts, key=lambda part: memory.parts[part])
    message = (
        f"a rank of {shape.name} needs {memory.peak / GIB:.1f} GiB ({memory.worst_phase}; most of it:"
        f" {largest}, {memory.parts[largest] / GIB:.1f} GiB) and a GPU has {cluster.gpu_memory / GIB:g} GiB"
    )
    if nearest:
        remedy, allowed = f"set {'; or '.join(nearest)}", None
        if nearest[0].startswith("resources.workers_per_trial"):
            allowed = f"at least {nearest[0].rpartition(' ')[2]} on these GPUs"
        return UserError(
            message,
            file=file,
            key="resources.workers_per_trial",
            value=workers,
            allowed=allowed,
            remedy=remedy,
        )
    # With examples of one token on all GPUs: what remains is the model itself, a lower bound.
    frugal = _with(trial, 1, activation_checkpointing=True, inference="lockstep")
    least = memory_of_rank(shape, sweep.model, frugal, Lengths(1, 1), cluster.gpus, gpu=True).peak
    return UserError(
        message,
        file=file,
        key="resources.workers_per_trial",
        value=workers,
        allowed=(
            f"nothing on {cluster.gpus} of these GPUs: all of them together, with lock-step inference,"
            f" checkpointing and a micro-batch of 1, leave {least / GIB:.1f} GiB per rank"
        ),
        remedy="plan with larger GPUs (--gpu-memory-gib) or more of them (--gpus)"
        + (", or set model.dtype to bfloat16" if sweep.model.dtype == "float32" else ""),
    )


def _values(domain: Domain | None, own: Any) -> Sequence[Any]:
    """Returns the values that a key with choices can have in a trial, whose own value is `own`."""
    if domain is None:
        return (own,)
    # Where its conditions do not hold, a searched key has the trial's own value.
    return (*domain.choices, own) if domain.when else domain.choices


def _largest(domain: Domain | None, own: int) -> int:
    """Returns the largest value that a numeric key can have in a trial, whose own value is `own`."""
    # Choices that are not numbers do not bound the memory. The upper bound of a choice is 0.
    numbers = [value for value in _values(domain, own) if isinstance(value, int | float)]
    return int(max([*numbers, 0 if domain is None else domain.high]))
