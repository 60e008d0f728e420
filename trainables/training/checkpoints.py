"""Checkpoints inside a trial: written at a fixed interval, and used when the trial is run again.

A resumed trial continues bit for bit, so checkpoints change no result.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from trainables.engine.zero3_engine import Engine
from trainables.events import LineLogged, Report
from trainables.jobs import TrialJob
from trainables.training.checkpoint_files import (
    TornCheckpointError,
    partial_folder,
    read_rank,
    read_shared,
    remove_partials,
    seal,
    step_folder,
    whole_steps,
    write_rank,
)
from trainables.training.trial_state import TrialState

FORMAT = 1
"""Version of the format; raise it when the written data changes its meaning."""
PLACES = {"weights", "checkpoint", "checkpoint_steps"}
"""Fields of a job that say where and when to write; they may differ when a trial is resumed."""
LIBRARIES = ("torch", "deepspeed", "transformers")


@dataclass(frozen=True)
class Found:
    """A checkpoint that the trial can be resumed from."""

    state: TrialState
    """State that is equal on every rank."""
    tensors: Mapping[str, Tensor]
    """This rank's tensors for `Engine.restore`, mapped from the disk."""


class Checkpoints:
    """The checkpoints of one trial.

    Args:
        engine: Engine of the trial.
        home: Folder of the trial's checkpoints, on a disk that all workers share.
        every: Optimizer steps between two checkpoints.
        key: Everything that must be equal for the trial to continue bit for bit, as JSON data.
        report: Called on rank 0 with a log line for each checkpoint that could not be read or written.

    Ranks: all.
    """

    def __init__(
        self,
        engine: Engine,
        home: Path,
        every: int,
        key: Mapping[str, Any],
        report: Report,
    ) -> None:
        self._engine, self._home, self._every, self._key, self._report = (
            engine,
            home,
            every,
            dict(key),
            report,
        )
        # Rank 0 draws the name, and all ranks use it. uuid does not touch the seeded random states of a
        # trial.
        self._writer: str = engine.gather([uuid.uuid4().hex[:8]] if engine.rank == 0 else [])[0]

    def find(self) -> Found | None:
        """Find the newest checkpoint that every rank can read, and remove unusable ones. Ranks: all."""
        if self._engine.rank == 0:
            remove_partials(self._home)
        for step in self._engine.gather(whole_steps(self._home) if self._engine.rank == 0 else []):
            found = self._read(step)
            # All ranks must reach this gather, and agree: a rank that resumed alone would wait in its next
            # collective forever.
            problem = _first(self._engine.gather([found if isinstance(found, str) else ""]))
            if not problem and isinstance(found, Found):
                return found
            self._say(f"the checkpoint after step {step} is ignored: {problem}")
            self._remove(step_folder(self._home, step))
        return None

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` finished steps."""
        return step % self._every == 0

    def write(self, state: TrialState) -> None:
        """Write a checkpoint and remove earlier ones; a full disk does not fail the trial. Ranks: all."""
        partial = partial_folder(self._home, state.step, self._writer)
        digest = problem = ""
        try:
            # torch raises a RuntimeError where its zip writer meets a full disk.
            digest = write_rank(partial, self._engine.rank, self._engine.training_state())
        except (OSError, RuntimeError) as error:
            problem = _reason(error)
        # All ranks must reach this gather: the folder gets its final name when all of them have written.
        written = self._engine.gather([(digest, problem)])
        problem = _first([text for _, text in written])
        if self._engine.rank == 0 and not problem:
            try:
                seal(
                    partial,
                    self._home,
                    state.step,
                    [text for text, _ in written],
                    {"key": self._key, "progress": state.to_json()},
                )
            except OSError as error:
                problem = _reason(error)
        if problem:
            self._say(f"the checkpoint after step {state.step} was not written: {problem}")
            self._remove(partial)

    def remove(self) -> None:
        """Remove all checkpoints of the trial. Ranks: all; rank 0 removes."""
        self._remove(self._home)

    def _read(self, step: int) -> Found | str:
        """Read this rank's part of a checkpoint, or return the reason why it cannot be used."""
        folder = step_folder(self._home, step)
        try:
            shared = read_shared(folder)
            if (difference := _difference(shared.get("key"), self._key)) is not None:
                return difference
            tensors = read_rank(folder, self._engine.rank, shared["digests"][self._engine.rank])
            return Found(TrialState.from_json(shared["progress"]), tensors)
        except (TornCheckpointError, ValidationError, LookupError) as error:
            return f"it is torn: {_reason(error)}"

    def _say(self, line: str) -> None:
        if self._engine.rank == 0:
            self._report(LineLogged(line))

    def _remove(self, folder: Path) -> None:
        if self._engine.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def checkpoints_of(engine: Engine, job: TrialJob, report: Report) -> Checkpoints | None:
    """Return the checkpoints of a job; None for a job without them. Ranks: all."""
    if job.checkpoint is None or not job.checkpoint_steps:
        return None
    return Checkpoints(
        engine, Path(job.checkpoint), job.checkpoint_steps, checkpoint_key(engine, job), report
    )


def checkpoint_key(engine: Engine, job: TrialJob) -> dict[str, Any]:
    """Return everything that a trial's result depends on bit for bit, and how its state is sharded."""
    # Numbers of workers, threads and library versions change the order of floating-point sums.
    # Sorted keys, so that the hash does not depend on the order of fields.
    settings = json.dumps(job.model_dump(mode="json", exclude=PLACES), sort_keys=True)
    return {
        "format": FORMAT,
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
        "workers": engine.world_size,
        "shards": engine.shard_sizes(),
        "device": engine.device.type,
        "threads": torch.get_num_threads(),
        **{name: version(name) for name in LIBRARIES},
    }


def _difference(written: Any, now: Mapping[str, Any]) -> str | None:
    if not isinstance(written, Mapping):
        return "it is torn: its key is missing"
    names = [name for name in sorted(written.keys() | now.keys()) if written.get(name) != now.get(name)]
    return (
        f"it was written with {names[0]} {written.get(names[0])}, and now it is {now.get(names[0])}"
        if names
        else None
    )


def _first(texts: list[str]) -> str:
    """Return the first text that is not empty, that of the lowest rank."""
    return next((text for text in texts if text), "")


def _reason(error: Exception) -> str:
    # The text of an OSError also names the file, which the line does not need.
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
