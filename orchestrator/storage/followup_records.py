"""What follow-ups of a sweep leave beside the study: repetitions under new seeds, and audits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.storage.sweep_folder import SweepFolder
from trainables.durable_files import write_json


@dataclass(frozen=True)
class Confirmation:
    """One repetition of a trial under another seed, up to a rung. No trial of the search: the study does not
    know it."""

    trial_id: str
    """The trial whose settings it has."""
    rung: int
    """Where it ended, from 1, on the path of the full schedule."""
    seed: int
    """Seed of the repetition, never one that the search has used."""
    member: str
    """The front member that it repeats: `t0007@2`."""
    metrics: Mapping[str, float]
    """Metrics at the rung, of both parts; keys as in `TrialRecord.metrics`. Empty when it failed."""
    reason: str | None = None
    """Why it failed; None when it did not."""
    spent_s: float | None = None
    """Time of its steps, beliefs and evaluation in seconds; None when it failed."""

    @property
    def key(self) -> tuple[str, int, int]:
        """Trial, rung and seed: a sweep has one repetition of each."""
        return self.trial_id, self.rung, self.seed

    @property
    def name(self) -> str:
        """For people and MLflow: `t0007@2 seed 1`."""
        return f"{self.member} seed {self.seed}"


@dataclass(frozen=True)
class Audit:
    """What `lethe audit` found in a model: what it still knows of the forget set, although it may not
    show."""

    name: str
    """`t0007@2` for a member of a front, `original`, `retrained`, or a folder."""
    metrics: Mapping[str, float]
    """Metrics of the test part and of every probe made: `test/utility`, `test/leak_at_k`."""
    leaks: Sequence[Mapping[str, Any]]
    """Answers that tell: `probe` (`asked` is the evaluation's own question), `id` of the fact, `prompt`,
    `opening`, `answer`, `truth`."""
    facts: int
    """Facts that were asked for."""
    way: str
    """Names the settings of the probes: audits of different ways cannot be compared."""
    rung: int | None = None
    """Of a trial; None for other models."""

    @property
    def hidden(self) -> dict[str, list[Mapping[str, Any]]]:
        """Leaks by fact, for facts that no question of the evaluation brings out: they look forgotten, and
        are not."""
        shown = {leak["id"] for leak in self.leaks if leak["probe"] == "asked"}
        found: dict[str, list[Mapping[str, Any]]] = {}
        for leak in self.leaks:
            if leak["id"] not in shown:
                found.setdefault(leak["id"], []).append(leak)
        return found


def read_confirmations(folder: SweepFolder) -> list[Confirmation]:
    """The results that are there, in the order in which they came; none before the first."""
    file = confirmations_file(folder)
    return [Confirmation(**entry) for entry in json.loads(file.read_text())] if file.is_file() else []


def confirmations_file(folder: SweepFolder) -> Path:
    """Where the sweep's confirmations are kept."""
    return folder.path / "confirmations.json"


@dataclass(frozen=True)
class Subject:
    """A model to audit."""

    name: str
    """`original`, `retrained`, `t0007@2`, or a folder."""
    folder: str
    """Its weights: a folder or hub id."""
    rung: int | None = None
    """Of a trial."""


def read_audits(folder: SweepFolder) -> list[Audit]:
    """The newest audit of each model, in the order in which they were first made; none before the first."""
    known = _index(folder)
    entries = [
        (Subject(name, "", entry["rung"]), folder.path / "audits" / entry["file"])
        for name, entry in known.items()
    ]
    return [read_audit(subject, file) for subject, file in entries if file.is_file()]


def read_audit(subject: Subject, file: Path) -> Audit:
    """The audit of a subject that a lane wrote to `file`."""
    found = json.loads(file.read_text())
    return Audit(
        subject.name,
        found["metrics"],
        found["leaks"],
        found["facts"],
        file.stem.rpartition("-")[2],
        subject.rung,
    )


def note_audit(folder: SweepFolder, subject: Subject, file: Path) -> None:
    """Make `file` the newest audit of the subject."""
    write_json(
        _index_file(folder), _index(folder) | {subject.name: {"rung": subject.rung, "file": file.name}}
    )


def _index(folder: SweepFolder) -> dict[str, Any]:
    file = _index_file(folder)
    return json.loads(file.read_text()) if file.is_file() else {}


def _index_file(folder: SweepFolder) -> Path:
    return folder.path / "audits.json"
