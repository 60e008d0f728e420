"""Makes the recording that simulations are based on, from finished sweeps.

The first sweep has a few hundred random trials. The others repeat a few dozen of them as enqueued entries:
one with a learning rate 1 % higher, one with another seed.

    lethe run quickstart --name recording --set search.sampler=random --set search.trials=280 \\
        --set 'search.enqueue=[]' --set trial.rungs=8
    lethe run quickstart --name near ... --set search.trials=30 --set 'search.enqueue=[...]'
    lethe run quickstart --name seed1 ... --set search.trials=40 --set 'search.enqueue=[...]' \\
        --set trial.seed=1
    python -m orchestrator.simulation.make_recording "how, when and on what it was run" \\
        lethe-runs/{recording,near,seed1} > recording.json
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from orchestrator.search.study import Study
from orchestrator.simulation.learning_curves import features, logits_of
from orchestrator.simulation.recording import MEASURED
from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.sweep_folder import SweepFolder, open_sweep
from orchestrator.storage.trial_records import TrialRecord
from search_spaces.settings.sweep_settings import SweepSettings

DIGITS = 4
"""Number of significant digits in the file."""


def recording_of(
    sweep: SweepSettings,
    records: Sequence[TrialRecord],
    repeats: Sequence[tuple[int, TrialRecord]],
    spent_s: Mapping[int, Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, float]],
    note: str,
) -> dict[str, Any]:
    """Builds the contents of a recording file.

    Args:
        sweep: Settings of the recorded sweep, whose trials have rungs.
        records: Trials of the sweep; only finished ones are recorded.
        repeats: Repetitions of trials, each with its seed.
        spent_s: Number of the trial -> seconds in `steps`, `beliefs` and `evaluation`, for trials that had
            the machine to themselves.
        baselines: Metrics of the `original` and the `retrained` model.
        note: How it was recorded, as a text for the user.

    Returns:
        Plain data for JSON; `orchestrator.simulation.recording` reads it.
    """
    trials = [_trial(record) for record in records if record.status == "finished"]
    rows = np.array([features(sweep.space, trial["params"]) for trial in trials])
    curves = np.array([logits_of(trial["validation"]) for trial in trials])
    seconds: dict[str, list[list[float]]] = defaultdict(list)
    for record in records:
        if record.number in spent_s and record.duration_s is not None:
            parts = spent_s[record.number]
            # Measurements of one part: every rung measures the validation part, the last one also the test
            # part.
            measurements = len(record.rungs) + 1
            # The rest of the trial's time: before the first step and after the last measurement.
            setup = record.duration_s - sum(parts[name] for name in ("steps", "beliefs", "evaluation"))
            row = [setup, parts["steps"], parts["beliefs"], parts["evaluation"] / measurements]
            seconds[record.params["beliefs"]].append([_rounded(value) for value in row])
    return {
        "note": note,
        "trial": sweep.trial.model_dump(mode="json"),
        "space": {key: domain.model_dump(mode="json") for key, domain in sweep.space.items()},
        "baselines": {
            name: {key: _rounded(value) for key, value in metrics.items()}
            for name, metrics in baselines.items()
        },
        "seconds": seconds,
        **_most_likely(rows, curves.reshape(len(trials), -1)),
        "trials": trials,
        "repeats": [
            _repeat(sweep, rows, seed, record) for seed, record in repeats if record.status == "finished"
        ],
    }


def _trial(record: TrialRecord) -> dict[str, Any]:
    def measured(metrics: Mapping[str, float], part: str) -> list[float]:
        return [_rounded(metrics[f"{part}/{name}"]) for name in MEASURED]

    params = {
        key: _rounded(value) if isinstance(value, float) else value for key, value in record.params.items()
    }
    return {
        "params": params,
        "validation": [measured(rung, "validation") for rung in record.rungs],
        "test": measured(record.metrics, "test"),
    }


def _repeat(sweep: SweepSettings, rows: np.ndarray, seed: int, record: TrialRecord) -> dict[str, Any]:
    again = _trial(record)
    # Repeats do not name their original, but their features are nearest to it.
    nearest = np.linalg.norm(rows - features(sweep.space, record.params), axis=1).argmin()
    return {"of": int(nearest), "seed": seed, "params": again["params"], "validation": again["validation"]}


def _most_likely(rows: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Finds the length scales and the noise of the Gaussian process by maximum likelihood.

    This takes minutes, so it is done once, when the recording is made.
    """
    kernel = ConstantKernel(4.0, (1e-2, 1e3)) * Matern(
        np.full(rows.shape[1], 2.0), (0.2, 100.0), nu=2.5
    ) + WhiteKernel(0.05, (1e-4, 1.0))
    found = GaussianProcessRegressor(kernel, normalize_y=True).fit(rows, targets).kernel_
    signal, noise = found.k1.k1.constant_value, found.k2.noise_level
    return {
        "length_scales": [_rounded(scale) for scale in found.k1.k2.length_scale],
        "noise_frac": _rounded(noise / signal),
    }


def _rounded(value: float) -> float:
    # Fewer digits keep the packaged file small; the noise of a trial is far larger than the rounding.
    return float(f"{value:.{DIGITS}g}")


def main() -> None:
    """Reads the sweep folders named on the command line and writes the recording to standard output."""
    note, *paths = sys.argv[1:]
    (folder, sweep, study), *again = (_opened(Path(path)) for path in paths)
    records = study.records()
    repeats = [
        (settings.trial.seed, record) for _, settings, repeated in again for record in repeated.records()
    ]
    # The first trial includes compilation time, so its times are left out.
    spent_s = {
        record.number: study.annotations(record.number)["seconds"]
        for record in records[1:]
        if record.status == "finished"
    }
    baselines = {name: baseline.metrics() for name, baseline in read_baselines(folder).items()}
    json.dump(
        recording_of(sweep, records, repeats, spent_s, baselines, note), sys.stdout, separators=(",", ":")
    )


def _opened(path: Path) -> tuple[SweepFolder, SweepSettings, Study]:
    folder, sweep = open_sweep(path.resolve().parent, path.name)
    return folder, sweep, Study.read(folder.journal, sweep)


if __name__ == "__main__":
    main()
