"""What the rest of the orchestrator knows about a trial, without knowing Optuna or Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from search_spaces.settings.sweep_settings import SweepSettings

Status = Literal["running", "finished", "stopped", "failed"]
"""`stopped` trials ended at a rung before their last, with results up to there; `failed` ones have none."""


def trial_id(number: int) -> str:
    """The name of a trial in folders, tables and MLflow: `t0007` for number 7."""
    return f"t{number:04d}"


BASELINES = ("original", "prompted", "retrained", "retrained_twin")
"""Models beside the front: as it was, with an instruction to forget in front of every question, the one that never knew, and the same
under another seed."""
OPTIONAL_BASELINES = ("prompted", "retrained_twin")
"""Those that a sweep may well do without."""


@dataclass(frozen=True)
class Asked:
    """A trial that is to run now."""

    number: int
    """Position in the study, from 0."""
    params: Mapping[str, Any]
    """Space keys that are active in this trial, and their values."""

    @property
    def trial_id(self) -> str:
        """Name: `trial_id(number)`."""
        return trial_id(self.number)


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study holds it: a snapshot that later changes of the study leave alone."""

    trial_id: str
    """Name: `trial_id(number)`."""
    number: int
    """Position in the study, from 0."""
    status: Status
    """`failed` trials have a `reason` and never reach the front; `stopped` ones may."""
    params: Mapping[str, Any]
    """Space keys that were active in this trial, and their values."""
    metrics: Mapping[str, float]
    """Metrics of the last rung, with keys such as `validation/forget_true_mass` and `test/utility`; empty before the first rung."""
    rungs: Sequence[Mapping[str, float]]
    """Metrics of every rung reported so far, in order; keys of the test part only where it was measured."""
    reason: str | None = None
    """Why the trial failed, or was stopped."""
    duration_s: float | None = None
    """Wall time from hand-out to the end in seconds; of a repeated trial, the last attempt's. None while it runs."""
    mlflow_run_id: str | None = None
    """Child run in MLflow, where there is one."""
    started_at: float | None = None
    """Unix time of the (last) hand-out in seconds."""
    finished_at: float | None = None
    """Unix time of the end in seconds; None while it runs."""
    spent_s: float = 0.0
    """Wall time in seconds of all its attempts that have ended, those that a dead driver cut off up to their last rung."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status != "running"


@dataclass(frozen=True)
class Confirmation:
    """One repetition of a trial under another seed, up to a rung. No trial of the search: the study does not know it."""

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
    """What `lethe audit` found in a model: what it still knows of the forget set, although it may not show."""

    name: str
    """`t0007@2` for a member of a front, `original`, `retrained`, or a folder."""
    metrics: Mapping[str, float]
    """Metrics of the test part and of every probe made: `test/utility`, `test/leak_at_k`."""
    leaks: Sequence[Mapping[str, Any]]
    """Answers that tell: `probe` (`asked` is the evaluation's own question), `id` of the fact, `prompt`, `opening`, `answer`, `truth`."""
    facts: int
    """Facts that were asked for."""
    way: str
    """Names the settings of the probes: audits of different ways cannot be compared."""
    rung: int | None = None
    """Of a trial; None for other models."""

    @property
    def hidden(self) -> dict[str, list[Mapping[str, Any]]]:
        """Leaks by fact, for facts that no question of the evaluation brings out: they look forgotten, and are not."""
        shown = {leak["id"] for leak in self.leaks if leak["probe"] == "asked"}
        found: dict[str, list[Mapping[str, Any]]] = {}
        for leak in self.leaks:
            if leak["id"] not in shown:
                found.setdefault(leak["id"], []).append(leak)
        return found


@dataclass(frozen=True)
class SweepView:
    """Everything a report needs to know about a sweep."""

    sweep: SweepSettings
    records: Sequence[TrialRecord]
    baselines: Mapping[str, Mapping[str, float]]
    """Metrics of the `original` and, where there is one, the `retrained` model; same keys as `TrialRecord.metrics`."""
    importances: Mapping[str, Mapping[str, float]]
    """Per objective: space key -> importance; the shares of one objective add up to 1. Empty with few trials."""
    confirmations: Sequence[Confirmation] = ()
    """Repetitions of front members under new seeds, as far as `lethe confirm` was called."""
    audits: Sequence[Audit] = ()
    """What members of the front, the original and the retrained model still know, as far as `lethe audit` was called."""
