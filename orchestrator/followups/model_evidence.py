"""What is known about one rung of one trial: everything that stands in the model card of an exported model.
Plain data, fit for JSON."""

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
    """The evidence of one exported model. Holds no text of the data."""

    sweep: str
    trial: str
    """Name of the trial, and rung where it is not the last: `t0007@2`."""
    rung: int
    rungs: int
    """Rungs that the trial has reached."""
    base_model: str
    """Hub id, or the name of a local folder; `scratch` for a model that the sweep trained from nothing."""
    objectives: Mapping[str, str]
    """Metric -> direction."""
    settings: Mapping[str, str]
    """Every setting of the trial by its dotted key."""
    searched: Mapping[str, Any]
    """Those that the search chose."""
    seed: int
    workers: int
    """ZeRO-3 ranks that trained it."""
    metrics: Mapping[str, float]
    """At the rung; keys such as `test/utility`."""
    baselines: Mapping[str, Mapping[str, float]]
    """The same of the `original` and, where there is one, the `retrained` model."""
    confirmations: Sequence[Mapping[str, Any]]
    """Repetitions of this rung under other seeds: `seed`, `metrics`, `reason`."""
    data: Mapping[str, Any]
    """The sweep's `data:` block."""
    data_digest: str | None
    """sha256 of the benchmark's contents; None where the data cannot be read any more."""
    versions: Mapping[str, str]
    """Versions and git state."""
    versions_when: str
    """Of what time the versions are: of the sweep, or of the export."""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def gather_evidence(
    sweep: SweepSettings,
    folder: SweepFolder,
    chosen: ChosenRung,
    versions: Mapping[str, str],
    versions_when: str,
) -> Evidence:
    """Read what the sweep's files say about a rung.

    Args:
        sweep: Settings with objectives filled in.
        folder: The sweep's files.
        chosen: Trial and rung.
        versions: Tags as `orchestrator.storage.provenance.provenance` gives them.
        versions_when: Of what time they are, for people.

    Raises:
        UserError: The baselines' measurements are gone.
    """
    trial = apply(sweep.trial, chosen.record.params)
    repetitions = [
        one
        for one in read_confirmations(folder)
        if (one.trial_id, one.rung) == (chosen.record.trial_id, chosen.rung)
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
        confirmations=[
            {"seed": one.seed, "metrics": dict(one.metrics), "reason": one.reason} for one in repetitions
        ],
        data=sweep.data.model_dump(mode="json"),
        data_digest=data_digest(sweep),
        versions=dict(versions),
        versions_when=versions_when,
    )


def _base_model(sweep: SweepSettings) -> str:
    given = sweep.model.target or sweep.model.base or "scratch"
    # A path says nothing to others, and may say too much of this machine.
    return given.rstrip("/").rpartition("/")[2] if is_local(given) else given
