"""Reads the recording that simulations are based on: the packaged file that `make_recording` has made."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from search_spaces.settings.space import Domain
from search_spaces.settings.trial_settings import TrialSettings

PACKAGED = Path(__file__).with_name("recording.json")

MEASURED = ("forget_canonical_mass", "forget_rephrased_mass", "retain_true_mass", "forget_coherence")
"""The recorded metrics; all other simulated metrics follow from them."""


@dataclass(frozen=True)
class Seconds:
    """The time of one trial by phase, in seconds."""

    setup: float
    """From the start of the trial to its first step, and from its last measurement to its end."""
    steps: float
    """All steps of the schedule."""
    beliefs: float
    """All sampling of sequence beliefs."""
    evaluation: float
    """One measurement of one part of the evaluation items."""


@dataclass(frozen=True)
class RecordedTrial:
    """One trial that was trained."""

    params: Mapping[str, Any]
    """The active keys of the space and their values."""
    validation: Sequence[Sequence[float]]
    """(rungs, len(MEASURED)) Metrics at evenly spaced rungs, the last one at the end of the schedule."""
    test: Sequence[float]
    """(len(MEASURED),) Metrics at the end of the schedule."""


@dataclass(frozen=True)
class Repeat:
    """A repetition of a recorded trial, with a slightly different learning rate or with another seed."""

    of: int
    """Position of the recorded trial in `Recording.trials`."""
    seed: int
    """The seed of the repetition."""
    params: Mapping[str, Any]
    """The active keys of the space and their values."""
    validation: Sequence[Sequence[float]]
    """(rungs, len(MEASURED)) Metrics at evenly spaced rungs."""


@dataclass(frozen=True)
class Recording:
    """The recorded trials of one sweep."""

    note: str
    """How it was recorded."""
    trial: TrialSettings
    """Settings that all trials have in common."""
    space: Mapping[str, Domain]
    """The searched keys and their domains."""
    baselines: Mapping[str, Mapping[str, float]]
    """Metrics of the `original` and the `retrained` model."""
    seconds: Mapping[str, Sequence[Seconds]]
    """Value of `beliefs` -> times of trials that had the machine to themselves."""
    length_scales: Sequence[float]
    """Length scales of the fit, one per feature, found by maximum likelihood when the file was made."""
    noise_frac: float
    """Variance of the fit's noise, as a fraction of the variance of the signal."""
    trials: Sequence[RecordedTrial]
    repeats: Sequence[Repeat]

    @property
    def rungs(self) -> int:
        """Number of rungs of each trial."""
        return len(self.trials[0].validation)


@cache
def packaged_recording() -> Recording:
    """Reads the recording that comes with Lethe; once per process."""
    raw = json.loads(PACKAGED.read_text())
    return Recording(
        note=raw["note"],
        trial=TrialSettings.model_validate(raw["trial"]),
        space={key: Domain.model_validate(domain) for key, domain in raw["space"].items()},
        baselines=raw["baselines"],
        seconds={beliefs: [Seconds(*row) for row in rows] for beliefs, rows in raw["seconds"].items()},
        length_scales=raw["length_scales"],
        noise_frac=raw["noise_frac"],
        trials=[RecordedTrial(**row) for row in raw["trials"]],
        repeats=[Repeat(**row) for row in raw["repeats"]],
    )
