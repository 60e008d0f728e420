"""Jobs that a lane can run: prepare a model, evaluate it, run a trial, predict dynamics, run benchmarks.

Jobs are settings that pass between processes as JSON. The driver makes them, so torch is not imported here.
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
    """Name for people: `target`, `retrained` or `retrained_twin`."""
    model: ModelSettings
    data: DataSettings = ClosedWorldData()
    text: Literal["target", "retrained"]
    """The training text: all of it, or all but the forget set."""
    initial: str
    """Model folder or hub id of the initial weights; with `base: scratch` it is written if missing."""
    output: str
    """Folder to write the model to."""
    engine: EngineSettings = EngineSettings()


class EvaluateJob(Settings):
    """Measure a model without training it: all metrics, probes, and what trials are compared with."""

    kind: Literal["evaluate"] = "evaluate"
    name: str
    """Name for people, such as `original`, `retrained`, `prompted`, `t0007@2`, or a folder."""
    model: ModelSettings
    data: DataSettings = ClosedWorldData()
    folder: str
    """Model folder or hub id."""
    output: str
    """JSON file to write: `metrics`, `items` and `reference_logp_nats`, and what the fields below add."""
    parts: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    """Parts of the benchmark that are measured."""
    retrained: str | None = None
    """JSON file of the retrained model's measurement, for metrics that compare with it; None for none."""
    instruction: str | None = None
    """Text in front of every question, which is unlearning by a prompt alone; None for none."""
    redact: bool = False
    """Whether to write hashes in place of the model's answers."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Its `probes` add `leaks`, the answers that reveal a fact, and `facts`, the number of probed facts."""
    reference_logp: bool = False
    """Whether to fill `reference_logp_nats` (of the forget set's tokens, by example id), as NPO needs it."""
    likelihood_bands: bool = False
    """Whether to add `probes`: the candidates of `evaluation.bands`, which trials from this model follow."""
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
    """Model folder or hub id of the model to unlearn."""
    original: str | None = None
    """JSON file of the original model's measurement, for `squeeze`, bands and reference log-probabilities.

    Without it the trial computes the log-probabilities itself, and the rest is not measured.
    """
    retrained: str | None = None
    """JSON file of the retrained model's measurement, for metrics that compare with it; None for none."""
    weights: str | None = None
    """Folder for the weights of the rungs that are kept, as `rung<number>`; None to write none."""
    stop_at_rung: PositiveInt | None = None
    """Rung after which the trial ends on the schedule of all its rungs; no decisions are requested.

    The rung is kept, and measured on both parts. None to request decisions.
    """
    checkpoint: str | None = None
    """Folder for checkpoints, from which the trial continues when it is run again; None to write none."""
    checkpoint_steps: NonNegativeInt = 0
    """Optimizer steps between two checkpoints; with 0 none is written, and none is read."""


class DynamicsJob(Settings):
    """Predict what one unlearning step does to other answers, then take it. Needs a lane of one worker."""

    kind: Literal["dynamics"] = "dynamics"
    model: ModelSettings
    data: DataSettings
    trial: TrialSettings
    """Hyperparameters of the losses and of the beliefs."""
    folder: str
    """Model folder of the policy."""
    original_folder: str
    """Folder of the model before unlearning, for the bands and for reference log-probabilities."""
    original: str
    """JSON file of the original model's measurement, for its reference log-probabilities."""
    losses: tuple[tuple[str, str], ...] = (
        ("ga", "none"),
        ("npo", "none"),
        ("wga", "none"),
        ("wga", "token"),
        ("wga", "sequence"),
    )
    """Pairs of method and beliefs, one step each."""
    examples: int = 12
    """Number of forget examples in the update, and of unrelated ones that are only observed."""
    beams: int = 10
    """Number of candidates per prompt in the bands."""


class BenchmarkJob(Settings):
    """Run public benchmarks (lm-eval) on one model. Needs a lane of one worker."""

    kind: Literal["benchmark"] = "benchmark"
    model: ModelSettings
    folder: str
    """Model folder or hub id."""
    tasks: tuple[str, ...]
    """Names of lm-eval tasks or groups of tasks."""
    limit: PositiveInt | None = None
    """Largest number of items per task; all when None."""
    batch: PositiveInt = 8
    """Number of items per forward pass."""
    task_folder: str | None = None
    """Folder with further task files of lm-eval; None for none."""


AnyJob = PrepareJob | EvaluateJob | TrialJob | DynamicsJob | BenchmarkJob
JOB: TypeAdapter[AnyJob] = TypeAdapter(Annotated[AnyJob, Field(discriminator="kind")])
"""Converts any job from plain values or JSON."""


def read_measurement(path: str | None) -> dict[str, Any] | None:
    """Read the JSON file that an `EvaluateJob` has written; None without a path."""
    return None if path is None else json.loads(Path(path).read_text())
