"""What a lane is asked to do: prepare a model, measure or audit one, or run a trial. Plain settings, readable
as JSON; no torch here."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, TypeAdapter

from search_spaces.settings.base_settings import PositiveInt, Settings
from search_spaces.settings.data_settings import ClosedWorldData, DataSettings
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import EngineSettings, TrialSettings


class PrepareJob(Settings):
    """Train a model on the benchmark's text and write it as a Hugging Face folder."""

    kind: Literal["prepare"] = "prepare"
    name: str
    """What people see: `target` or `retrained`."""
    model: ModelSettings
    data: DataSettings = ClosedWorldData()
    text: Literal["target", "retrained"]
    """Everything, or everything but the forget set."""
    initial: str
    """Folder of the initial weights and tokenizer; written first when `base` is `scratch` and it is not there
    yet."""
    output: str
    """Folder to write."""
    engine: EngineSettings = EngineSettings()


class MeasureJob(Settings):
    """Evaluate a model as it is, and take the log-probabilities of the forget set that NPO compares with."""

    kind: Literal["measure"] = "measure"
    name: str
    """What people see: `original`, `retrained` or `prompted`."""
    model: ModelSettings
    data: DataSettings = ClosedWorldData()
    folder: str
    """Model folder or hub id."""
    output: str
    """JSON file to write: `metrics`, `items` and `reference_logp_nats` of the tokens by example id."""
    retrained: str | None = None
    """JSON file of the retrained model's measurement, for metrics that compare with it."""
    instruction: str | None = None
    """What stands in front of every question: unlearning by a prompt alone."""
    redact: bool = False
    """Write hashes in place of what the model answers."""
    evaluation: EvaluationSettings = EvaluationSettings()
    probes: bool = False
    """Also search the candidates of `evaluation.bands`, for the trials that go on from this model."""
    engine: EngineSettings = EngineSettings()


class AuditJob(Settings):
    """Look for what a model still knows of the forget set."""

    kind: Literal["audit"] = "audit"
    name: str
    """What people see: `original`, `retrained`, `t0007@2`, or a folder."""
    model: ModelSettings
    data: DataSettings = ClosedWorldData()
    folder: str
    """Model folder or hub id."""
    output: str
    """JSON file to write: `metrics` of the test part, `leaks` and `facts`."""
    retrained: str | None = None
    """JSON file of the retrained model's measurement, for metrics that compare with it."""
    redact: bool = False
    """Write hashes in place of text."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Its `probes` are made."""
    engine: EngineSettings = EngineSettings()


class TrialJob(Settings):
    """One unlearning trial."""

    kind: Literal["trial"] = "trial"
    trial_id: str = "t0000"
    """Name of the trial in its sweep."""
    model: ModelSettings
    data: DataSettings = ClosedWorldData()
    trial: TrialSettings = TrialSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    folder: str
    """The model to unlearn: a folder or hub id."""
    original: str | None = None
    """JSON file of the original model's measurement, for `squeeze` and reference log-probabilities (else
    computed in the trial)."""
    retrained: str | None = None
    """JSON file of the retrained model's measurement."""
    weights: str | None = None
    """Folder for the unlearned weights of the rungs that are kept, `rung<number>` each; none are written when
    left out."""
    stop_at_rung: PositiveInt | None = None
    """End there, on the full schedule's path, measured on both parts and kept, without asking anybody."""
    checkpoint: str | None = None
    """Folder for the trial's inner state, from which it goes on when it is run again; none is written when
    left out."""
    checkpoint_steps: NonNegativeInt = 0
    """Optimizer steps between two checkpoints; 0: none is written, and none is read."""


AnyJob = PrepareJob | MeasureJob | AuditJob | TrialJob
JOB: TypeAdapter[AnyJob] = TypeAdapter(Annotated[AnyJob, Field(discriminator="kind")])
"""Reads any job from JSON."""


def read_measurement(path: str | None) -> dict[str, Any] | None:
    """A measurement that `MeasureJob` wrote, or None."""
    return None if path is None else json.loads(Path(path).read_text())
