"""What a trial would measure, as a function of its settings: a Gaussian process fitted to recorded trials,
with their noise.

Curves are fitted as a whole, on a logit scale: what is between 0 and 1 stays there, and a curve bends as
recorded ones do.

Noise is what trials differed by that were trained twice. It is far smaller than the error of the fit, which
is for the most part structure
finer than the spacing of the recorded trials: taken for noise, that error would make a front of lucky draws
(hypervolume .96 instead of the recorded .91).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern
from sklearn.model_selection import KFold, cross_val_predict

from orchestrator.pareto.objectives import Part
from orchestrator.simulation.recording import MEASURED, Recording, Repeat, Seconds
from search_spaces.settings.space import Domain, active, trial_value
from search_spaces.settings.trial_settings import TrialSettings

Array = NDArray[np.float64]

METRICS = ("forget_true_mass", "utility", *MEASURED)
"""What a simulated trial measures, on each part."""

SIMILAR = 8
"""Noise is that of one of so many repeated trials that are most like the simulated one: harsh settings are
noisier than mild ones."""

FLOOR = 1e-4
"""What is nearer than this to 0 or 1 counts as this near: below, a collapsed model's numbers are rounding."""


class LearningCurves:
    """Learning curves of any trial within a recorded space.

    Args:
        recording: What they are fitted to.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.features = np.array([features(recording.space, trial.params) for trial in recording.trials])
        self.curves = np.array([logits_of(trial.validation) for trial in recording.trials])
        """(trials, rungs, quantities) as recorded."""
        self._process = _process(recording).fit(self.features, self._flat)
        self._noise = self._noise_of(
            [repeat for repeat in recording.repeats if repeat.seed == recording.trial.seed]
        )
        self._seed_noise = self._noise_of(
            [repeat for repeat in recording.repeats if repeat.seed != recording.trial.seed]
        )
        self._test_shifts = (
            np.array([logits_of(trial.test) for trial in recording.trials]) - self.curves[:, -1]
        )
        self._start = logits_of([recording.baselines["original"][f"validation/{name}"] for name in MEASURED])

    def of(self, trial: TrialSettings) -> "Curve":
        """The curve of a trial: the same for the same settings, its seed included."""
        space = self.recording.space
        params = active_params(space, trial)
        row = features(space, params)
        which_noise, which_times, which_shift = _draws(params, trial.seed)
        logits = self._smooth(row[None])[0] + self._noise.like(row, which_noise)
        if trial.seed != self.recording.trial.seed:
            # The order of batches is common to all trials of a seed: those with like settings are moved
            # alike.
            logits += self._seed_noise.like(row, _draws(trial.seed)[0])
        times = self.recording.seconds[trial.beliefs]
        return Curve(self, np.vstack([self._start, logits]), times[which_times % len(times)], which_shift)

    def test_shift(self, logits: Array, draw: int) -> Array:
        """How far the test part of a measurement lies from its validation part: as in a recorded trial that
        ended near it.

        Args:
            logits: (quantities,) on the validation part.
            draw: Decides between trials that ended near it.
        """
        return self._test_shifts[_one_of_nearest(np.linalg.norm(self.curves[:, -1] - logits, axis=1), draw)]

    def left_out(self, folds: int) -> Array:
        """(trials, rungs, quantities) Every recorded trial as predicted from those in other folds."""
        split = KFold(folds, shuffle=True, random_state=0)
        return cross_val_predict(_process(self.recording), self.features, self._flat, cv=split).reshape(
            self.curves.shape
        )

    def _smooth(self, rows: Array) -> Array:
        """(rows, rungs, quantities) The fit."""
        return self._process.predict(rows).reshape(-1, *self.curves.shape[1:])

    def _noise_of(self, repeats: Sequence[Repeat]) -> "Noise":
        """How repeats differ from the first time, beyond what their settings explain."""
        rows = np.array([features(self.recording.space, repeat.params) for repeat in repeats])
        first = [repeat.of for repeat in repeats]
        differences = np.array([logits_of(repeat.validation) for repeat in repeats]) - self.curves[first]
        return Noise(
            rows,
            differences - (self._smooth(rows) - self._smooth(self.features[first])),
            np.array(self.recording.length_scales),
        )

    @property
    def _flat(self) -> Array:
        return self.curves.reshape(len(self.curves), -1)


@dataclass(frozen=True)
class Noise:
    """Noise of trials that were trained twice."""

    rows: Array
    """(repeats, features)."""
    curves: Array
    """(repeats, rungs, quantities)."""
    length_scales: Array
    """(features,) over which trials become unlike."""

    def like(self, row: Array, draw: int) -> Array:
        """(rungs, quantities) That of one of the trials most like a row of features."""
        return self.curves[
            _one_of_nearest(np.linalg.norm((self.rows - row) / self.length_scales, axis=1), draw)
        ]


@dataclass(frozen=True)
class Curve:
    """One simulated trial."""

    curves: LearningCurves
    logits: Array
    """(rungs + 1, quantities) on the validation part, from the untouched model to the end."""
    seconds: Seconds
    draw: int
    """Decides on its test part."""

    def metrics(self, done_frac: float, part: Part) -> dict[str, float]:
        """What would be measured.

        Args:
            done_frac: Share of the schedule that is done, in (0, 1].
            part: Of the evaluation items.

        Returns:
            Keys such as `validation/utility`.
        """
        where = np.linspace(0, 1, len(self.logits))
        logits = np.array([np.interp(done_frac, where, column) for column in self.logits.T])
        if part == "test":
            logits = logits + self.curves.test_shift(logits, self.draw)
        return {f"{part}/{name}": value for name, value in _metrics(logits).items()}


def held_out_rank_correlations(recording: Recording, folds: int = 5) -> dict[str, float]:
    """How well the fit orders trials that it has not seen.

    Args:
        recording: Trials to fit and to hold out, in turns.
        folds: Parts that the trials are split into.

    Returns:
        Metric -> Spearman's correlation of prediction and recorded value at the end of the schedule, over all
        trials.
    """
    curves = LearningCurves(recording)
    predicted, recorded = (
        [_metrics(row) for row in found[:, -1]] for found in (curves.left_out(folds), curves.curves)
    )
    return {
        name: float(
            spearmanr(
                [metrics[name] for metrics in predicted], [metrics[name] for metrics in recorded]
            ).statistic
        )
        for name in METRICS
    }


def active_params(space: Mapping[str, Domain], trial: TrialSettings) -> dict[str, Any]:
    """A trial's values of the keys of a space that are active in it."""
    params = {key: trial_value(trial, key) for key in space}
    return {key: value for key, value in params.items() if active(key, space, params, trial)}


def features(space: Mapping[str, Domain], params: Mapping[str, Any]) -> Array:
    """Settings as numbers: one per choice, and one from -1 to 1 per range, on its own scale; 0 where a key is
    not active.

    Args:
        space: All keys.
        params: The active ones and their values.
    """
    return np.array([number for key, domain in space.items() for number in _numbers(domain, params.get(key))])


def _numbers(domain: Domain, value: Any) -> list[float]:
    if domain.kind == "choice":
        return [float(value == choice) for choice in domain.choices]
    if value is None:
        return [0.0]
    low, high, here = (
        math.log(bound) if domain.is_log else float(bound) for bound in (domain.low, domain.high, value)
    )
    return [2 * (here - low) / (high - low) - 1]


def _process(recording: Recording) -> GaussianProcessRegressor:
    kernel = Matern(recording.length_scales, nu=2.5)
    return GaussianProcessRegressor(kernel, alpha=recording.noise_frac, optimizer=None, normalize_y=True)


def _draws(*settings: Any) -> list[int]:
    """Three whole numbers that follow from settings and look random."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    return [int.from_bytes(digest[start : start + 4]) for start in (0, 4, 8)]


def _one_of_nearest(distances: Array, draw: int) -> int:
    """Position of one of the SIMILAR smallest."""
    return int(np.argpartition(distances, SIMILAR)[draw % SIMILAR])


def logits_of(measured: Sequence[Any]) -> Array:
    """Quantities that can be anything between 0 and 1 whatever the others are: true mass, its canonical
    share, retained mass, coherence.

    Args:
        measured: (..., len(MEASURED)).
    """
    canonical, rephrased, retained, coherence = np.moveaxis(np.asarray(measured, dtype=np.float64), -1, 0)
    true = canonical + rephrased
    shares = np.stack([true, canonical / np.maximum(true, FLOOR**2), retained, coherence], axis=-1)
    return logit(np.clip(shares, FLOOR, 1 - FLOOR))


def _metrics(logits: Array) -> dict[str, float]:
    """The inverse of `logits_of`, with what follows from it."""
    true, canonical_share, retained, coherence = (float(share) for share in expit(logits))
    canonical = true * canonical_share
    values = (true, 2 / (1 / retained + 1 / coherence), canonical, true - canonical, retained, coherence)
    return dict(zip(METRICS, values, strict=True))
