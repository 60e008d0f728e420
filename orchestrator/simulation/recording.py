"""Recorded trials that simulations stand on, as the packaged file holds them: see `make_recording` for how it
came about."""

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
"""Metrics that were recorded; all others that a simulation knows follow from them."""


@dataclass(frozen=True)
class Seconds:
    """Where the time of one trial went."""

    setup: float
    """From hand-out to the first step, and from the last measurement to the end."""
    steps: float
    """All steps of the schedule."""
    beliefs: float
    """All sampling of sequence beliefs."""
    evaluation: float
    """One measurement of one part."""


@dataclass(frozen=True)
class RecordedTrial:
    """One trial that was trained."""

    params: Mapping[str, Any]
    """Active space keys and their values."""
    validation: Sequence[Sequence[float]]
    """(rungs, len(MEASURED)) at evenly spread rungs, the last at the end."""
    test: Sequence[float]
    """(len(MEASURED),) at the end."""


@dataclass(frozen=True)
class Repeat:
    """A recorded trial that was trained once more, with a slightly different learning rate or with another
    seed."""

    of: int
    """Position of the recorded trial."""
    seed: int
    """The trial's seed."""
    params: Mapping[str, Any]
    """As of a recorded trial."""
    validation: Sequence[Sequence[float]]
    """As of a recorded trial."""


@dataclass(frozen=True)
class Recording:
    """Trials of one sweep."""

    note: str
    """How it was recorded."""
    trial: TrialSettings
    """What all trials have in common."""
    space: Mapping[str, Domain]
    """What they differ in."""
    baselines: Mapping[str, Mapping[str, float]]
    """Metrics of the `original` and the `retrained` model."""
    seconds: Mapping[str, Sequence[Seconds]]
    """By `beliefs`: times of trials that had the machine to themselves."""
    length_scales: Sequence[float]
    """Of the fit, one per feature; found by maximum likelihood when the file was made."""
    noise_frac: float
    """Of the fit: variance of the noise as a share of the signal's."""
    trials: Sequence[RecordedTrial]
    repeats: Sequence[Repeat]

    @property
    def rungs(self) -> int:
        """Measurements of each trial."""
        return len(self.trials[0].validation)


@cache
def packaged_recording() -> Recording:
    """The recording that comes with Lethe."""
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
