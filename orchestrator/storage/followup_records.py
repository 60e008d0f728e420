"""Results of follow-ups, kept beside the study: repetitions under new seeds, and audits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.storage.sweep_folder import SweepFolder
from trainables.durable_files import write_json


@dataclass(frozen=True)
class Confirmation:
    """One repetition of a trial under another seed, up to a rung. It is not part of the study."""

    trial_id: str
    """The trial whose settings are repeated."""
    rung: int
    """The rung, from 1, at which the repetition ends; its learning rate follows the full schedule."""
    seed: int
    """Seed of the repetition, never one that the search has used."""
    member: str
    """The front member that is repeated: `t0007@2`."""
    metrics: Mapping[str, float]
    """Metrics at the rung, of both parts; keys as in `TrialRecord.metrics`. Empty if it failed."""
    reason: str | None = None
    """Why the repetition failed; None if it did not."""
    spent_s: float | None = None
    """Time of its steps, beliefs and evaluation in seconds; None if it failed."""

    @property
    def key(self) -> tuple[str, int, int]:
        """Trial, rung and seed, by which a sweep keeps one repetition each."""
        return self.trial_id, self.rung, self.seed

    @property
    def name(self) -> str:
        """The repetition's name in messages and MLflow: `t0007@2 seed 1`."""
        return f"{self.member} seed {self.seed}"


@dataclass(frozen=True)
class Audit:
    """Result of `lethe audit` for one model: what it still knows of the forget set."""

    name: str
    """`t0007@2` for a member of a front, `original`, `retrained`, or a folder."""
    metrics: Mapping[str, float]
    """Metrics of the test part and of every probe that was made: `test/utility`, `test/leak_at_k`."""
    leaks: Sequence[Mapping[str, Any]]
    """Answers that state a fact of the forget set: `probe` (`asked` for the evaluation's own question), `id`
    of the fact, `prompt`, `opening`, `answer`, `truth`."""
    facts: int
    """Number of facts in the questions."""
    settings_hash: str
    """Hash of the probes' settings: only audits with equal hashes are comparable."""
    rung: int | None = None
    """The rung of a trial's model; None for other models."""

    @property
    def hidden(self) -> dict[str, list[Mapping[str, Any]]]:
        """Leaks by fact, for the facts that a probe brings out but no question of the evaluation does."""
        # The evaluation's own question is among the probes, under the name `asked`.
        shown = {leak["id"] for leak in self.leaks if leak["probe"] == "asked"}
        hidden: dict[str, list[Mapping[str, Any]]] = {}
        for leak in self.leaks:
            if leak["id"] not in shown:
                hidden.setdefault(leak["id"], []).append(leak)
        return hidden


def read_confirmations(folder: SweepFolder) -> list[Confirmation]:
    """Returns the sweep's confirmations in the order in which they ended; empty before the first."""
    file = confirmations_file(folder)
    return [Confirmation(**entry) for entry in json.loads(file.read_text())] if file.is_file() else []


def confirmations_file(folder: SweepFolder) -> Path:
    """Returns the file that holds the sweep's confirmations."""
    return folder.path / "confirmations.json"


@dataclass(frozen=True)
class Subject:
    """A model to audit."""

    name: str
    """`original`, `retrained`, `t0007@2`, or a folder."""
    folder: str
    """Folder or hub id of its weights."""
    rung: int | None = None
    """The rung of a trial's model; None for other models."""


def read_audits(folder: SweepFolder) -> list[Audit]:
    """Returns the newest audit of each model, in the order of their first audits; empty before the first."""
    audits = []
    for name, entry in _index(folder).items():
        file = folder.path / "audits" / entry["file"]
        # An audit whose file was removed by hand counts as not made.
        if file.is_file():
            audits.append(read_audit(Subject(name, "", entry["rung"]), file))
    return audits


def read_audit(subject: Subject, file: Path) -> Audit:
    """Reads the audit of a model from the file that its worker wrote."""
    result = json.loads(file.read_text())
    # `followups.audits.plan_audits` puts the hash at the end of the file's name.
    return Audit(
        subject.name,
        result["metrics"],
        result["leaks"],
        result["facts"],
        settings_hash=file.stem.rpartition("-")[2],
        rung=subject.rung,
    )


def note_audit(folder: SweepFolder, subject: Subject, file: Path) -> None:
    """Makes `file` the newest audit of the model."""
    entry = {"rung": subject.rung, "file": file.name}
    write_json(_index_file(folder), _index(folder) | {subject.name: entry})


def _index(folder: SweepFolder) -> dict[str, Any]:
    file = _index_file(folder)
    return json.loads(file.read_text()) if file.is_file() else {}


def _index_file(folder: SweepFolder) -> Path:
    return folder.path / "audits.json"
