"""Everything that a report or a comparison needs to know about a sweep, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.followup_records import Audit, Confirmation, read_confirmations
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.benchmarks.registry import load_benchmark


@dataclass(frozen=True)
class SweepView:
    """Everything a report needs to know about a sweep."""

    sweep: SweepSettings
    records: Sequence[TrialRecord]
    baselines: Mapping[str, Mapping[str, float]]
    """Metrics of the `original` and, where there is one, the `retrained` model; same keys as
    `TrialRecord.metrics`."""
    importances: Mapping[str, Mapping[str, float]]
    """Per objective: space key -> importance; the shares of one objective add up to 1. Empty with few trials.
    """
    confirmations: Sequence[Confirmation] = ()
    """Repetitions of front members under new seeds, as far as `lethe confirm` was called."""
    audits: Sequence[Audit] = ()
    """What members of the front, the original and the retrained model still know, as far as `lethe audit` was
    called."""


def read_view(folder: SweepFolder, sweep: SweepSettings, records: Sequence[TrialRecord]) -> SweepView:
    """What a comparison needs of a sweep on disk.

    Raises:
        UserError: A measurement was removed by hand.
    """
    baselines = {name: baseline.metrics() for name, baseline in read_baselines(folder).items()}
    return SweepView(sweep, records, baselines, {}, read_confirmations(folder))


def data_digest(sweep: SweepSettings) -> str | None:
    """Hash of the benchmark's contents; None when it cannot be read here and now."""
    try:
        return load_benchmark(sweep.data).digest
    except UserError:
        return None
