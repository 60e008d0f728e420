"""Warm start: the sampler of a sweep learns from trials of earlier sweeps at points of its space.

These trials are read once and stored in the sweep's folder, so that a resumed sweep proposes the same trials
whatever has happened to the earlier sweeps.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.pareto.objectives import Criteria, criteria_of
from orchestrator.search.selected_rung import selected_rung, why_failed
from orchestrator.search.study import Study
from orchestrator.storage.sweep_folder import SweepFolder, open_sweep
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.space import Domain, apply, same_value, sample, trial_value
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.durable_files import write_json

KEY = "search.warm_start"
MLFLOW = "mlflow:"

ReadTrials = Callable[[str], Sequence[TrialRecord]]
"""Reads the trials of a sweep from MLflow, by the sweep's name."""
Effective = Callable[[str], Any]
"""Returns the value of a dotted trial key in a trial; raises KeyError if the value is not known."""


def warm_trials(folder: SweepFolder, sweep: SweepSettings, read_tracked: ReadTrials) -> list[TrialRecord]:
    """Returns the trials that a sweep learns from: read at its first start, and the same at every later one.

    Args:
        folder: Folder of the sweep. Call this before its study is opened: the existence of the journal tells
            whether the sweep has started before.
        sweep: Resolved settings.
        read_tracked: Reads a sweep from MLflow.

    Returns:
        The trials of `read_warm_start`.

    Raises:
        UserError: As for `read_warm_start`.
    """
    file = folder.path / "warm_start.json"
    if not sweep.search.warm_start:
        return []
    # A file without a journal is left by a start that failed before its first trial: its sources may have
    # changed since.
    if not (file.exists() and folder.journal.exists()):
        found = read_warm_start(sweep, folder.root, read_tracked)
        write_json(
            file,
            [
                {name: getattr(record, name) for name in ("trial_id", "status", "params", "rungs")}
                for record in found
            ],
        )
    # Read back even at the first start, so that all starts see values that have passed through JSON.
    stored = json.loads(file.read_text())
    return [
        TrialRecord(number=number, metrics=trial["rungs"][-1], **trial) for number, trial in enumerate(stored)
    ]


def read_warm_start(sweep: SweepSettings, root: Path, read_tracked: ReadTrials) -> list[TrialRecord]:
    """Reads the trials of the sweeps named in `search.warm_start` that lie in this sweep's space.

    A trial lies in the space if this sweep could have proposed it: every key that would be active has a value
    inside its domain, and every other key that the earlier sweep searched has the value that this sweep
    fixes. Keys that the earlier sweep fixed count with their fixed value, if its folder is available.
    Settings that neither sweep searches (model, data, epochs) are not compared: naming a sweep in
    `search.warm_start` states that its results carry over. Of two trials at one point the first counts.

    Args:
        sweep: Resolved settings.
        root: Folder of all sweeps.
        read_tracked: Reads a sweep from MLflow.

    Returns:
        Finished and stopped trials with this sweep's objectives, at points of its space, numbered from 0.
        They have only the metrics that the search reads.

    Raises:
        UserError: There is no such sweep, or the sampler can learn from none of its trials.
    """
    found: dict[str, TrialRecord] = {}
    for source in sweep.search.warm_start:
        usable = [trial for trial in _trials(sweep, source, root, read_tracked) if trial is not None]
        if not usable:
            raise UserError(
                "the sampler can learn from none of its trials",
                key=KEY,
                value=source,
                allowed=(
                    "sweeps with ended trials at points of this space, measured in this sweep's objectives"
                ),
                remedy="search over the same keys, or remove it",
            )
        # Sorted keys: two sweeps may list the same keys in different orders.
        for trial in usable:
            found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return [replace(trial, number=number) for number, trial in enumerate(found.values())]


def _trials(
    sweep: SweepSettings, source: str, root: Path, read_tracked: ReadTrials
) -> list[TrialRecord | None]:
    if source.startswith(MLFLOW):
        # MLflow's child runs hold the searched parameters only; fixed settings of that sweep are not known.
        records = read_tracked(source.removeprefix(MLFLOW))
        return [_translated(sweep, source, record, record.params.__getitem__) for record in records]
    path = Path(source)
    try:
        folder, earlier = (
            open_sweep(path.parent, path.name) if path.is_absolute() else open_sweep(root, source)
        )
        study = Study.read(folder.journal, earlier)
    except UserError as error:
        # The same message, but it names the setting from which the sweep's name came.
        raise UserError(
            error.message, key=KEY, value=source, allowed=error.allowed, remedy=error.remedy
        ) from error
    return [
        _translated(sweep, earlier.name, record, _effective(earlier, record)) for record in study.records()
    ]


def _effective(earlier: SweepSettings, record: TrialRecord) -> Effective:
    settings = apply(earlier.trial, record.params)
    return lambda key: trial_value(settings, key)


def _translated(
    sweep: SweepSettings, source: str, record: TrialRecord, effective: Effective
) -> TrialRecord | None:
    """Converts a trial of another sweep to a trial of this space; None if it has no usable result there."""
    criteria = criteria_of(sweep)
    # This sweep's objectives may differ from those of the earlier sweep, so its results are checked anew.
    if record.status not in ("finished", "stopped") or selected_rung(record.rungs, criteria) is None:
        return None
    if record.status == "finished" and why_failed(record.rungs, criteria) is not None:
        return None
    params = point_of(sweep, record.params, effective)
    if params is None:
        return None
    rungs = [_needed(rung, criteria) for rung in record.rungs]
    return TrialRecord(f"{source}/{record.trial_id}", record.number, record.status, params, rungs[-1], rungs)


def point_of(
    sweep: SweepSettings, searched: Mapping[str, Any], effective: Effective
) -> dict[str, Any] | None:
    """Finds the point of a sweep's space at which a trial of another sweep lies.

    Args:
        sweep: The sweep whose space is meant.
        searched: Keys that the other sweep searched in this trial, and their values.
        effective: Returns the trial's value of any key, if it is known.

    Returns:
        Active keys and their values; None if the trial lies at no point of the space.
    """

    def value_of(key: str, domain: Domain) -> Any:
        value = effective(key)
        if not domain.contains(value):
            raise KeyError(key)
        return domain.as_drawn(value)

    try:
        # `sample` walks the keys in the order of their conditions, so that only active keys are looked up.
        params = sample(sweep.space, sweep.trial, value_of)
        foreign = searched.keys() - params.keys()
        return (
            params
            if all(same_value(trial_value(sweep.trial, key), searched[key]) for key in foreign)
            else None
        )
    # KeyError: a value is missing or outside its domain. UserError: this sweep has no such key.
    except (KeyError, UserError):
        return None


def _needed(metrics: Mapping[str, float], criteria: Criteria) -> dict[str, float]:
    names = {objective.name for objective in criteria.objectives} | {
        limit.metric for limit in criteria.limits
    }
    return {key: metrics[key] for name in sorted(names) if (key := f"validation/{name}") in metrics}
