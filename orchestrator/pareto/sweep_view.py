"""Everything that reports, tables and comparisons need to know about a sweep, read and computed once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from orchestrator.pareto.front import Front, build_front, hypervolume_history
from orchestrator.pareto.objectives import Criteria, Objective, criteria_of
from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.followup_records import Audit, Confirmation, read_audits, read_confirmations
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.benchmarks.registry import load_benchmark


@dataclass(frozen=True)
class SweepView:
    """A sweep at one moment, at any stage of it: also without a finished trial."""

    sweep: SweepSettings
    records: Sequence[TrialRecord]
    """All trials, in the order of the study."""
    baselines: Mapping[str, Mapping[str, float]]
    """Metrics of the measured baselines (`original`, `retrained`, ...) by name, with the keys of
    `TrialRecord.metrics`."""
    importances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Objective name -> space key -> importance; the shares of one objective add up to 1. Empty with few
    trials."""
    confirmations: Sequence[Confirmation] = ()
    """Repetitions of front members under new seeds, as far as `lethe confirm` made them."""
    audits: Sequence[Audit] = ()
    """Audits of front members and baselines, as far as `lethe audit` made them."""
    known_front: Front | None = None
    """The front of `records` where the driver has it already."""
    known_hypervolumes: Sequence[float] | None = None
    """The curve of hypervolumes of `records` where the driver has it already."""

    @cached_property
    def criteria(self) -> Criteria:
        """The objectives and limits of the sweep."""
        return criteria_of(self.sweep)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of the sweep, in the order of its file."""
        return self.criteria.objectives

    @cached_property
    def front(self) -> Front:
        """The reported front."""
        return build_front(self.records, self.criteria) if self.known_front is None else self.known_front

    @cached_property
    def hypervolumes(self) -> Sequence[float]:
        """The hypervolume of the reported front after each trial with a result, in order of their ends."""
        if self.known_hypervolumes is not None:
            return self.known_hypervolumes
        return hypervolume_history(self.records, self.criteria)


def read_view(
    folder: SweepFolder,
    sweep: SweepSettings,
    records: Sequence[TrialRecord],
    *,
    importances: Mapping[str, Mapping[str, float]] | None = None,
    front: Front | None = None,
    hypervolumes: Sequence[float] | None = None,
) -> SweepView:
    """Reads what belongs to a sweep from its folder.

    Args:
        folder: The sweep's files.
        sweep: Settings with objectives filled in.
        records: All trials, in the order of the study.
        importances: Importances per objective; none if left out.
        front: The front of the same trials; built at its first use if left out.
        hypervolumes: The curve of hypervolumes of the same trials; computed at its first use if left out.

    Raises:
        UserError: The file of a measurement is missing.
    """
    return SweepView(
        sweep,
        records,
        {name: baseline.metrics() for name, baseline in read_baselines(folder).items()},
        importances or {},
        read_confirmations(folder),
        read_audits(folder),
        None if front is None else with_records(front, records),
        hypervolumes,
    )


def with_records(front: Front, records: Sequence[TrialRecord]) -> Front:
    """Replaces the members' records, which the driver took at the trials' ends, by newer ones.

    Only the newer records name the MLflow runs, which are noted after the end of a trial.
    """
    newer = {record.number: record for record in records}
    members = tuple(replace(member, record=newer[member.record.number]) for member in front.members)
    return replace(front, members=members)


def data_digest(sweep: SweepSettings) -> str | None:
    """Returns the hash of the benchmark's contents; None if the benchmark cannot be read now."""
    try:
        return load_benchmark(sweep.data).digest
    except UserError:
        return None
