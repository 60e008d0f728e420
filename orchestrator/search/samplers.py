"""Creates Optuna's samplers, and converts search spaces to Optuna's distributions."""

import hashlib
import math
import warnings
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from search_spaces.settings.space import Domain
from search_spaces.settings.sweep_settings import SearchSettings, SweepSettings


def sampler_of(sweep: SweepSettings, seed: int) -> BaseSampler:
    """Creates the sampler for one trial.

    A fresh one per trial is enough, because Optuna's samplers keep all their state in the study.

    Args:
        sweep: Settings with the sampler's name.
        seed: Seed of this trial.
    """
    settings = sweep.search
    with warnings.catch_warnings():
        # Optuna warns at every construction that some samplers and options are experimental.
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        match settings.sampler:
            case "tpe":
                return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
            case "random":
                return RandomSampler(seed=seed)
            case "qmc":
                # One quasi-random sequence serves the whole sweep: its seed must not change between trials.
                return _WholeSpaceQmc(sweep.space, seed_of(settings, 0, "sequence"), RandomSampler(seed=seed))
            case "nsga2":
                # With Optuna's default of 50 most sweeps would be a single random generation. The square root
                # of the number of trials gives as many generations as members.
                return NSGAIISampler(seed=seed, population_size=min(50, max(4, math.isqrt(settings.trials))))
            case "gp":
                # Equal settings give equal results, so that GP need not estimate noise.
                return GPSampler(seed=seed, deterministic_objective=True, warn_independent_sampling=False)


def seed_of(settings: SearchSettings, number: int, purpose: int | str) -> int:
    """Derives a seed from the sweep's seed, the trial's number and the purpose."""
    # A hash and not a sum, so that sweeps with neighbouring seeds share no trial seeds.
    return int.from_bytes(hashlib.sha256(f"{settings.seed}/{number}/{purpose}".encode()).digest()[:4])


def distributions_of(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """Converts every domain of a space to an Optuna distribution."""
    return {key: _distribution(domain) for key, domain in space.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.kind == "choice":
        return CategoricalDistribution(domain.choices)
    if domain.is_int:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.is_log)
    return FloatDistribution(domain.low, domain.high, log=domain.is_log)


class _WholeSpaceQmc(QMCSampler):
    """A QMC sampler for conditional spaces.

    Optuna's QMC sampler covers only the keys of the first trial. Here every key of the space has its own
    coordinate, whether or not a trial uses it.
    """

    def __init__(self, space: Mapping[str, Domain], seed: int, fallback: BaseSampler) -> None:
        super().__init__(
            scramble=True, seed=seed, independent_sampler=fallback, warn_independent_sampling=False
        )
        # Sorted, so that the coordinates do not depend on the order of the keys in the file. A key with a
        # single value takes no coordinate.
        distributions = sorted(distributions_of(space).items())
        self._whole = {key: distribution for key, distribution in distributions if not distribution.single()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._whole
