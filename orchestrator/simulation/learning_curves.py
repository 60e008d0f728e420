"""A surrogate model of trials: a Gaussian process from settings to learning curves, with measured noise.

The process is fitted to recorded trials. A whole curve is one target, on a logit scale: predictions stay
between 0 and 1 and have the shape of recorded curves.

The noise is taken from trials that were trained twice. It is far smaller than the error of the fit, which is
mostly structure finer than the spacing of the recorded trials. Treated as noise, that error would give a
front of lucky draws (hypervolume .96 instead of the recorded .91).
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
"""Metrics of a simulated trial, on each part."""

SIMILAR = 8
"""Number of nearest repeated trials from which the noise of a simulated trial is drawn.

Nearby trials are used because strong settings are noisier than mild ones.
"""

FLOOR = 1e-4
"""Distance from 0 and 1 to which values are clipped: below it, values of a collapsed model are rounding."""


class LearningCurves:
    """Learning curves of any trial within a recorded space.

    Args:
        recording: The recorded trials to which the curves are fitted.
    """

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.features = np.array([features(recording.space, trial.params) for trial in recording.trials])
        self.curves = np.array([logits_of(trial.validation) for trial in recording.trials])
        """(trials, rungs, quantities) The recorded curves, as logits."""
        self._process = _process(recording).fit(self.features, self._flat)
        # Repeats under the same seed differ by the noise of a single trial; those under another seed differ
        # also by the order of batches.
        self._noise = self._noise_of(
            [repeat for repeat in recording.repeats if repeat.seed == recording.trial.seed]
        )
        self._seed_noise = self._noise_of(
            [repeat for repeat in recording.repeats if repeat.seed != recording.trial.seed]
        )
        self._test_shifts = (
            np.array([logits_of(trial.test) for trial in recording.trials]) - self.curves[:, -1]
        )
        # A curve begins at the model before unlearning, which every trial shares.
        self._start = logits_of([recording.baselines["original"][f"validation/{name}"] for name in MEASURED])

    def of(self, trial: TrialSettings) -> "Curve":
        """Returns the curve of a trial; equal settings, including the seed, give equal curves."""
        space = self.recording.space
        params = active_params(space, trial)
        row = features(space, params)
        which_noise, which_times, which_shift = _draws(params, trial.seed)
        logits = self._smooth(row[None])[0] + self._noise.like(row, which_noise)
        if trial.seed != self.recording.trial.seed:
            # All trials of a seed share the order of batches, so trials with similar settings get the same
            # shift: its draw depends on the seed alone.
            logits += self._seed_noise.like(row, _draws(trial.seed)[0])
        # Times depend on which beliefs are sampled, much more than on any other setting.
        times = self.recording.seconds[trial.beliefs]
        return Curve(self, np.vstack([self._start, logits]), times[which_times % len(times)], which_shift)

    def test_shift(self, logits: Array, draw: int) -> Array:
        """Returns by how much the test part differs from the validation part in a similar recorded trial.

        Args:
            logits: (quantities,) The measurement on the validation part.
            draw: Random number that selects one of the recorded trials that ended near it.

        Returns:
            (quantities,) The shift, in logits.
        """
        distances = np.linalg.norm(self.curves[:, -1] - logits, axis=1)
        shift: Array = self._test_shifts[_one_of_nearest(distances, draw)]
        return shift

    def left_out(self, folds: int) -> Array:
        """Predicts every recorded trial from the trials of the other folds (cross-validation).

        Returns:
            (trials, rungs, quantities) The predicted curves, as logits.
        """
        # Shuffled with a fixed seed: the folds do not follow the order of the recording, and are repeatable.
        split = KFold(folds, shuffle=True, random_state=0)
        flat: Array = cross_val_predict(_process(self.recording), self.features, self._flat, cv=split)
        return flat.reshape(self.curves.shape)

    def _smooth(self, rows: Array) -> Array:
        """Predicts curves (rows, rungs, quantities) for rows of features."""
        flat: Array = self._process.predict(rows)
        return flat.reshape(-1, *self.curves.shape[1:])

    def _noise_of(self, repeats: Sequence[Repeat]) -> "Noise":
        """Computes how repeats differ from their originals, beyond what their settings explain."""
        rows = np.array([features(self.recording.space, repeat.params) for repeat in repeats])
        first = [repeat.of for repeat in repeats]
        differences = np.array([logits_of(repeat.validation) for repeat in repeats]) - self.curves[first]
        # A repeat has slightly different settings, so the fit's own difference is subtracted.
        return Noise(
            rows,
            differences - (self._smooth(rows) - self._smooth(self.features[first])),
            np.array(self.recording.length_scales),
        )

    @property
    def _flat(self) -> Array:
        # The Gaussian process takes one row of targets per trial: all rungs and quantities of its curve.
        return self.curves.reshape(len(self.curves), -1)


@dataclass(frozen=True)
class Noise:
    """The noise of trials that were trained twice."""

    rows: Array
    """(repeats, features) The features of the repeats."""
    curves: Array
    """(repeats, rungs, quantities) The noise of the repeats, in logits."""
    length_scales: Array
    """(features,) The length scales of the fit, which make the features comparable."""

    def like(self, row: Array, draw: int) -> Array:
        """Returns the noise (rungs, quantities) of one of the repeats nearest to a row of features."""
        distances = np.linalg.norm((self.rows - row) / self.length_scales, axis=1)
        noise: Array = self.curves[_one_of_nearest(distances, draw)]
        return noise


@dataclass(frozen=True)
class Curve:
    """One simulated trial."""

    curves: LearningCurves
    logits: Array
    """(rungs + 1, quantities) The curve on the validation part, from the original model to the end."""
    seconds: Seconds
    draw: int
    """Random number that selects the shift of the test part."""

    def metrics(self, done_frac: float, part: Part) -> dict[str, float]:
        """Returns the metrics that would be measured at a point of the schedule.

        Args:
            done_frac: Fraction of the schedule that is done, in (0, 1].
            part: Part of the evaluation items.

        Returns:
            Metrics with keys such as `validation/utility`.
        """
        # Interpolated, because a simulated sweep may have other rungs than the recorded trials.
        where = np.linspace(0, 1, len(self.logits))
        logits = np.array([np.interp(done_frac, where, column) for column in self.logits.T])
        if part == "test":
            logits = logits + self.curves.test_shift(logits, self.draw)
        return {f"{part}/{name}": value for name, value in _metrics(logits).items()}


def held_out_rank_correlations(recording: Recording, folds: int = 5) -> dict[str, float]:
    """Measures by cross-validation how well the fit orders trials that it has not seen.

    Args:
        recording: The recorded trials.
        folds: Number of folds.

    Returns:
        Metric -> Spearman's rank correlation between predicted and recorded values at the end of the
        schedule, over all trials.
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
    """Returns a trial's values of those keys of a space that are active in it."""
    params = {key: trial_value(trial, key) for key in space}
    return {key: value for key, value in params.items() if active(key, space, params, trial)}


def features(space: Mapping[str, Domain], params: Mapping[str, Any]) -> Array:
    """Encodes settings as a row of features: one-hot for choices, and a number from -1 to 1 for ranges.

    A range is encoded on its own scale, linear or logarithmic; a key that is not active is encoded as 0.

    Args:
        space: All keys and their domains.
        params: The active keys and their values.

    Returns:
        (features,)
    """
    return np.array([number for key, domain in space.items() for number in _numbers(domain, params.get(key))])


def _numbers(domain: Domain, value: Any) -> list[float]:
    if domain.kind == "choice":
        return [float(value == choice) for choice in domain.choices]
    # An inactive key lies in the middle of its range, equally far from both ends.
    if value is None:
        return [0.0]
    low, high, here = (
        math.log(bound) if domain.is_log else float(bound) for bound in (domain.low, domain.high, value)
    )
    return [2 * (here - low) / (high - low) - 1]


def _process(recording: Recording) -> GaussianProcessRegressor:
    # The length scales were found when the recording was made (`make_recording`): finding them takes minutes.
    kernel = Matern(recording.length_scales, nu=2.5)
    return GaussianProcessRegressor(kernel, alpha=recording.noise_frac, optimizer=None, normalize_y=True)


def _draws(*settings: Any) -> list[int]:
    """Derives three pseudo-random integers from settings."""
    # SHA-256 and not `hash`, which differs between Python processes.
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()
    return [int.from_bytes(digest[start : start + 4]) for start in (0, 4, 8)]


def _one_of_nearest(distances: Array, draw: int) -> int:
    """Returns the position of one of the `SIMILAR` smallest distances."""
    # The first SIMILAR positions hold the smallest distances, in no particular order.
    return int(np.argpartition(distances, SIMILAR)[draw % SIMILAR])


def logits_of(measured: Sequence[Any]) -> Array:
    """Converts recorded metrics to the logits of quantities that are independent of each other.

    The quantities are true mass, its canonical share, retained mass and coherence. Each may have any value
    between 0 and 1 whatever the others are, which the metrics themselves may not: canonical and rephrased
    mass add up to at most 1.

    Args:
        measured: (..., len(MEASURED)) Recorded metrics.

    Returns:
        (..., quantities) Logits.
    """
    canonical, rephrased, retained, coherence = np.moveaxis(np.asarray(measured, dtype=np.float64), -1, 0)
    true = canonical + rephrased
    # FLOOR squared only guards against 0 / 0: a true mass of FLOOR still has a meaningful share.
    shares = np.stack([true, canonical / np.maximum(true, FLOOR**2), retained, coherence], axis=-1)
    logits: Array = logit(np.clip(shares, FLOOR, 1 - FLOOR))
    return logits


def _metrics(logits: Array) -> dict[str, float]:
    """Converts logits (quantities,) back to all metrics: the inverse of `logits_of`, with derived metrics."""
    true, canonical_share, retained, coherence = (float(share) for share in expit(logits))
    canonical = true * canonical_share
    # Utility is the harmonic mean of retained mass and coherence, as in `trainables.metrics`.
    values = (true, 2 / (1 / retained + 1 / coherence), canonical, true - canonical, retained, coherence)
    return dict(zip(METRICS, values, strict=True))
