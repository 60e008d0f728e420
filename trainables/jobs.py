"""What a lane can do: prepare a model, evaluate it, run a trial, predict its dynamics, run public benchmarks.

Jobs are plain settings, readable as JSON; no torch here.
"""

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


class EvaluateJob(Settings):
    """Measure a model as it is: every metric of `evaluation`, its probes, and what trials compare with."""

    kind: Literal["evaluate"] = "evaluate"
    name: str
    """What people see: `original`, `retrained`, `prompted`, `t0007@2`, or a folder."""
    model: ModelSettings
    data: DataSettings = ClosedWorldData()
    folder: str
    """Model folder or hub id."""
    output: str
    """JSON file to write: `metrics` and `items`, and what the switches below add."""
    parts: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    """Parts of the benchmark that are measured."""
    retrained: str | None = None
    """JSON file of the retrained model's measurement, for metrics that compare with it."""
    instruction: str | None = None
    """What stands in front of every question: unlearning by a prompt alone."""
    redact: bool = False
    """Write hashes in place of what the model answers."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Its `probes` add `leaks`, the answers that give a fact away, and `facts`, how many were probed."""
    reference_logp: bool = False
    """Add `reference_logp_nats` of the forget set's tokens, by example id, with which NPO compares."""
    likelihood_bands: bool = False
    """Add `probes`: the candidates of `evaluation.bands`, for the trials that go on from this model."""
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
    """End there, on the full schedule's path, measured on both parts and kept, without a decision of the
    driver."""
    checkpoint: str | None = None
    """Folder for the trial's inner state, from which it goes on when it is run again; none is written when
    left out."""
    checkpoint_steps: NonNegativeInt = 0
    """Optimizer steps between two checkpoints; 0: none is written, and none is read."""


class DynamicsJob(Settings):
    """Predict what one unlearning step does to other answers, and take it. Needs a lane of one worker."""

    kind: Literal["dynamics"] = "dynamics"
    model: ModelSettings
    data: DataSettings
    trial: TrialSettings
    """Hyperparameters of the losses and of the beliefs."""
    folder: str
    """The policy: a model folder."""
    original_folder: str
    """The model before unlearning, for the bands and for references."""
    original: str
    """JSON file of the original's measurement, for log-probabilities that some methods compare with."""
    losses: tuple[tuple[str, str], ...] = (
        ("ga", "none"),
        ("npo", "none"),
        ("wga", "none"),
        ("wga", "token"),
        ("wga", "sequence"),
    )
    """Pairs of method and beliefs."""
    examples: int = 12
    """Forget examples in the update, and unrelated ones beside it."""
    beams: int = 10
    """Candidates per prompt in the bands."""


class BenchmarkJob(Settings):
    """Run public benchmarks (lm-eval) on one model. Needs a lane of one worker."""

    kind: Literal["benchmark"] = "benchmark"
    model: ModelSettings
    folder: str
    """Model folder or hub id."""
    tasks: tuple[str, ...]
    """Names of tasks or groups of tasks of lm-eval."""
    limit: PositiveInt | None = None
    """Most items per task; all when None."""
    batch: PositiveInt = 8
    """Items per forward pass."""
    task_folder: str | None = None
    """Folder with task files of one's own."""


AnyJob = PrepareJob | EvaluateJob | TrialJob | DynamicsJob | BenchmarkJob
JOB: TypeAdapter[AnyJob] = TypeAdapter(Annotated[AnyJob, Field(discriminator="kind")])
"""Reads any job from JSON."""


def read_measurement(path: str | None) -> dict[str, Any] | None:
    """A measurement that `EvaluateJob` wrote, or None."""
    return None if path is None else json.loads(Path(path).read_text())
