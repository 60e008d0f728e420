"""Optuna's samplers as Lethe sets them up, and the space in Optuna's words."""

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
    """A fresh sampler for one trial: samplers keep all they know in the study.

    Args:
        sweep: Names the sampler.
        seed: Of this trial.
    """
    settings = sweep.search
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        match settings.sampler:
            case "tpe":
                return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
            case "random":
                return RandomSampler(seed=seed)
            case "qmc":
                # One sequence per sweep: its seed must not change from trial to trial.
                return _WholeSpaceQmc(sweep.space, seed_of(settings, 0, "sequence"), RandomSampler(seed=seed))
            case "nsga2":
                # Optuna's 50 would make most sweeps one random generation; a square root gives as many
                # generations as members.
                return NSGAIISampler(seed=seed, population_size=min(50, max(4, math.isqrt(settings.trials))))
            case "gp":
                return GPSampler(seed=seed, deterministic_objective=True, warn_independent_sampling=False)


def seed_of(settings: SearchSettings, number: int, purpose: int | str) -> int:
    """A seed that follows from the sweep's own and the trial's number."""
    return int.from_bytes(hashlib.sha256(f"{settings.seed}/{number}/{purpose}".encode()).digest()[:4])


def distributions_of(space: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """Every domain of a space in Optuna's words."""
    return {key: _distribution(domain) for key, domain in space.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    if domain.kind == "choice":
        return CategoricalDistribution(domain.choices)
    if domain.is_int:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.is_log)
    return FloatDistribution(domain.low, domain.high, log=domain.is_log)


class _WholeSpaceQmc(QMCSampler):
    """Optuna's QMC fills the space of the first trial only; here each key of a conditional space keeps its
    own coordinate."""

    def __init__(self, space: Mapping[str, Domain], seed: int, fallback: BaseSampler) -> None:
        super().__init__(
            scramble=True, seed=seed, independent_sampler=fallback, warn_independent_sampling=False
        )
        distributions = sorted(distributions_of(space).items())
        self._whole = {key: distribution for key, distribution in distributions if not distribution.single()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._whole
