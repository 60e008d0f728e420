"""Checkpoints inside a trial: written every so many steps, found again when the trial is run again. They
change no result."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from trainables.engine.zero3_engine import Engine
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
"""Raise it when what is written means something else."""
PLACES = {"weights", "checkpoint", "checkpoint_steps"}
"""Fields of a job that say where to write: a sweep that moved goes on."""
LIBRARIES = ("torch", "deepspeed", "transformers")


@dataclass(frozen=True)
class Found:
    """A checkpoint that fits."""

    state: TrialState
    tensors: Mapping[str, Tensor]
    """This rank's, for `Engine.restore`; on the disk still."""


class Checkpoints:
    """The checkpoints of one trial.

    Args:
        engine: Its engine.
        home: Folder of its checkpoints, on a disk that all workers share.
        every: Optimizer steps between two of them.
        key: All that must be the same for the trial to go on bit for bit; plain data for JSON.
        report: Told one line, on rank 0, about what could not be read or written.

    Ranks: all.
    """

    def __init__(
        self,
        engine: Engine,
        home: Path,
        every: int,
        key: Mapping[str, Any],
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self._engine, self._home, self._every, self._key, self._report = (
            engine,
            home,
            every,
            dict(key),
            report,
        )
        self._writer: str = engine.gather([uuid.uuid4().hex[:8]] if engine.rank == 0 else [])[0]

    def find(self) -> Found | None:
        """The newest checkpoint that every rank can go on from; those that one cannot are removed. Ranks:
        all."""
        if self._engine.rank == 0:
            remove_partials(self._home)
        for step in self._engine.gather(whole_steps(self._home) if self._engine.rank == 0 else []):
            found = self._read(step)
            # All ranks must reach this: a rank that went on alone would wait in the next step for ever.
            problem = _first(self._engine.gather([found if isinstance(found, str) else ""]))
            if not problem and isinstance(found, Found):
                return found
            self._say(f"the checkpoint after step {step} is ignored: {problem}")
            self._remove(step_folder(self._home, step))
        return None

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint follows `step` finished steps."""
        return step % self._every == 0

    def write(self, state: TrialState) -> None:
        """Write a checkpoint; the one before it then goes. A disk that refuses costs the checkpoint, not the
        trial. Ranks: all."""
        partial = partial_folder(self._home, state.step, self._writer)
        digest = problem = ""
        try:
            digest = write_rank(partial, self._engine.rank, self._engine.training_state())
        except (OSError, RuntimeError) as error:
            problem = _told(error)
        written = self._engine.gather(
            [(digest, problem)]
        )  # all ranks must reach this: the folder gets its name when all have written
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
                problem = _told(error)
        if problem:
            self._say(f"the checkpoint after step {state.step} was not written: {problem}")
            self._remove(partial)

    def remove(self) -> None:
        """Drop all checkpoints. Ranks: all; rank 0 removes."""
        self._remove(self._home)

    def _read(self, step: int) -> Found | str:
        """This rank's part of a checkpoint, or why it cannot be used."""
        folder = step_folder(self._home, step)
        try:
            shared = read_shared(folder)
            if (difference := _difference(shared.get("key"), self._key)) is not None:
                return difference
            tensors = read_rank(folder, self._engine.rank, shared["digests"][self._engine.rank])
            return Found(TrialState.from_json(shared["progress"]), tensors)
        except (TornCheckpointError, ValidationError, LookupError) as error:
            return f"it is torn: {_told(error)}"

    def _say(self, line: str) -> None:
        if self._engine.rank == 0:
            self._report({"event": "log", "line": line})

    def _remove(self, folder: Path) -> None:
        if self._engine.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def checkpoints_of(
    engine: Engine, job: TrialJob, report: Callable[[dict[str, Any]], None]
) -> Checkpoints | None:
    """The checkpoints that a job asks for; None when it asks for none. Ranks: all."""
    if job.checkpoint is None or not job.checkpoint_steps:
        return None
    return Checkpoints(
        engine, Path(job.checkpoint), job.checkpoint_steps, checkpoint_key(engine, job), report
    )


def checkpoint_key(engine: Engine, job: TrialJob) -> dict[str, Any]:
    """All that decides a trial's path bit for bit, and how its state is cut into shards."""
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
    """The first text that is not empty: the lowest rank's."""
    return next((text for text in texts if text), "")


def _told(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
