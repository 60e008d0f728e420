"""Gathers the evidence for one rung of a trial, the content of an exported model's card, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.pareto.member_selection import ChosenRung
from orchestrator.pareto.objectives import objectives_of
from orchestrator.pareto.sweep_view import data_digest
from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.followup_records import read_confirmations
from orchestrator.storage.provenance import flattened
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.paths import is_local
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings


@dataclass(frozen=True)
class Evidence:
    """The evidence of one exported model. It holds no text of the data."""

    sweep: str
    trial: str
    """The trial's name, with the rung if that is not the last: `t0007@2`."""
    rung: int
    """The rung, counted from 1."""
    rungs: int
    """Number of rungs that the trial has reached."""
    base_model: str
    """Hub id, or the name of a local folder; `scratch` for a model that the sweep trained from scratch."""
    objectives: Mapping[str, str]
    """Metric -> direction."""
    settings: Mapping[str, str]
    """All settings of the trial by dotted key."""
    searched: Mapping[str, Any]
    """The settings that the search chose, by dotted key."""
    seed: int
    workers: int
    """Number of ZeRO-3 ranks that trained the model."""
    metrics: Mapping[str, float]
    """Metrics at the rung, with keys such as `test/utility`."""
    baselines: Mapping[str, Mapping[str, float]]
    """Metrics of each baseline by its name: `original`, `retrained`, ..."""
    confirmations: Sequence[Mapping[str, Any]]
    """Repetitions of this rung under other seeds: `seed`, `metrics`, `reason`."""
    data: Mapping[str, Any]
    """The `data:` block of the sweep."""
    data_digest: str | None
    """sha256 of the benchmark's contents; None if the data cannot be read any more."""
    versions: Mapping[str, str]
    """Versions of packages, and git state."""
    versions_when: str
    """When the versions were taken: `at the sweep` or `at the export`."""

    def as_json(self) -> dict[str, Any]:
        """Returns the evidence as plain data."""
        return asdict(self)


def gather_evidence(
    sweep: SweepSettings,
    folder: SweepFolder,
    chosen: ChosenRung,
    versions: Mapping[str, str],
    versions_when: str,
) -> Evidence:
    """Reads the evidence for a rung from the sweep's files.

    Args:
        sweep: Settings with objectives filled in.
        folder: The sweep's files.
        chosen: Trial and rung.
        versions: Tags as `orchestrator.storage.provenance.provenance` returns them.
        versions_when: When they were taken: `at the sweep` or `at the export`.

    Raises:
        UserError: The file of a baseline's measurement is missing.
    """
    trial = apply(sweep.trial, chosen.record.params)
    key = (chosen.record.trial_id, chosen.rung)
    # By trial and rung, not by name: the last rung of a trial has two names.
    confirmations = [
        {"seed": repetition.seed, "metrics": dict(repetition.metrics), "reason": repetition.reason}
        for repetition in read_confirmations(folder)
        if (repetition.trial_id, repetition.rung) == key
    ]
    return Evidence(
        sweep=sweep.name,
        trial=chosen.name,
        rung=chosen.rung,
        rungs=len(chosen.record.rungs),
        base_model=_base_model(sweep),
        objectives={objective.name: objective.direction for objective in objectives_of(sweep)},
        settings=flattened(trial.model_dump(mode="json")),
        searched=dict(chosen.record.params),
        seed=trial.seed,
        workers=sweep.resources.workers_per_trial,
        metrics=chosen.metrics,
        baselines={name: baseline.metrics() for name, baseline in read_baselines(folder).items()},
        confirmations=confirmations,
        data=sweep.data.model_dump(mode="json"),
        data_digest=data_digest(sweep),
        versions=dict(versions),
        versions_when=versions_when,
    )


def _base_model(sweep: SweepSettings) -> str:
    given = sweep.model.target or sweep.model.base or "scratch"
    # A path means nothing on another machine, and may contain user or project names.
    return given.rstrip("/").rpartition("/")[2] if is_local(given) else given
