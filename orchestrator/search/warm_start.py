"""What a sweep learns from earlier ones before its own first trial: their trials at points of its space.

They are read once, into a file of the sweep's folder, so that a resumed sweep goes on alike whatever has
become of its sources.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.pareto.objectives import Criteria, criteria_of
from orchestrator.search.selected_rung import selected_rung, why_failed
from orchestrator.search.study import Study
from orchestrator.storage.sweep_folder import SweepFolder, open_sweep, write_json
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.space import Domain, apply, same_value, sample, trial_value
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

KEY = "search.warm_start"
MLFLOW = "mlflow:"

ReadTrials = Callable[[str], Sequence[TrialRecord]]
"""From the name of a sweep to its trials as MLflow holds them."""
Effective = Callable[[str], Any]
"""From a dotted trial key to the value that a trial had; raises KeyError where nobody knows."""


def warm_trials(folder: SweepFolder, sweep: SweepSettings, read_tracked: ReadTrials) -> list[TrialRecord]:
    """The trials that a sweep learns from, read at its first start and the same ones at every later one.

    Args:
        folder: Of the sweep; call this before its study is opened.
        sweep: Resolved settings.
        read_tracked: Reads a sweep from MLflow.

    Returns:
        As `read_warm_start`.

    Raises:
        UserError: As `read_warm_start`.
    """
    file = folder.path / "warm_start.json"
    if not sweep.search.warm_start:
        return []
    if not (file.exists() and folder.journal.exists()):
        found = read_warm_start(sweep, folder.root, read_tracked)
        write_json(
            file,
            [
                {name: getattr(record, name) for name in ("trial_id", "status", "params", "rungs")}
                for record in found
            ],
        )
    stored = json.loads(file.read_text())
    return [
        TrialRecord(number=number, metrics=trial["rungs"][-1], **trial) for number, trial in enumerate(stored)
    ]


def read_warm_start(sweep: SweepSettings, root: Path, read_tracked: ReadTrials) -> list[TrialRecord]:
    """Trials of the sweeps that `search.warm_start` names which lie in this sweep's space.

    A trial lies in it when this sweep could have run it as far as anything searched goes: every key that
    would be active has a value inside its domain, and every other key that the earlier sweep searched has the
    value that this sweep fixes. Keys that the earlier sweep fixed count with the value that it had, where its
    folder is at hand. What neither sweep searches (model, data, epochs) is not
    compared: whoever names a sweep here says that its results carry over. Of two trials at one point the
    first counts.

    Args:
        sweep: Resolved settings.
        root: Folder of all sweeps.
        read_tracked: Reads a sweep from MLflow.

    Returns:
        Finished and stopped trials with this sweep's objectives, at points of its space, numbered from 0. Of
        their metrics only those that the search reads.

    Raises:
        UserError: There is no such sweep, or none of its trials can be learnt from.
    """
    found: dict[str, TrialRecord] = {}
    for source in sweep.search.warm_start:
        usable = [trial for trial in _trials(sweep, source, root, read_tracked) if trial is not None]
        if not usable:
            raise UserError(
                "none of its trials can be learnt from",
                key=KEY,
                value=source,
                allowed=(
                    "sweeps with ended trials at points of this space, measured in this sweep's objectives"
                ),
                remedy="search over the same keys, or take it out",
            )
        for trial in usable:
            found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return [replace(trial, number=number) for number, trial in enumerate(found.values())]


def _trials(
    sweep: SweepSettings, source: str, root: Path, read_tracked: ReadTrials
) -> list[TrialRecord | None]:
    if source.startswith(MLFLOW):
        records = read_tracked(source.removeprefix(MLFLOW))
        return [_translated(sweep, source, record, record.params.__getitem__) for record in records]
    path = Path(source)
    try:
        folder, earlier = (
            open_sweep(path.parent, path.name) if path.is_absolute() else open_sweep(root, source)
        )
        study = Study.read(folder.journal, earlier)
    except UserError as error:
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
    """A trial of another sweep as one of this space; None where it is none."""
    criteria = criteria_of(sweep)
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
    """The point of a sweep's space at which a trial of another sweep lies.

    Args:
        sweep: Whose space.
        searched: Keys that the other sweep searched in this trial, and their values.
        effective: Its other values, where they are known.

    Returns:
        Active keys and values; None where it lies at none.
    """

    def value_of(key: str, domain: Domain) -> Any:
        value = effective(key)
        if not domain.contains(value):
            raise KeyError(key)
        return domain.as_drawn(value)

    try:
        params = sample(sweep.space, sweep.trial, value_of)
        foreign = searched.keys() - params.keys()
        return (
            params
            if all(same_value(trial_value(sweep.trial, key), searched[key]) for key in foreign)
            else None
        )
    except (KeyError, UserError):
        return None


def _needed(metrics: Mapping[str, float], criteria: Criteria) -> dict[str, float]:
    names = {objective.name for objective in criteria.objectives} | {
        limit.metric for limit in criteria.limits
    }
    return {key: metrics[key] for name in sorted(names) if (key := f"validation/{name}") in metrics}
