"""A whole sweep file: model, data, trial defaults, space, objectives, search and resources."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from search_spaces.settings.base_settings import NonNegative, Positive, PositiveInt, Settings, Share
from search_spaces.settings.data_settings import DataSettings
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.space import Domain
from search_spaces.settings.trial_settings import TrialSettings


class BoundSettings(Settings):
    """Limits of one metric; a value outside makes a trial infeasible."""

    at_least: float | None = None
    """Smallest feasible value."""
    at_most: float | None = None
    """Largest feasible value."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least:g}) must not be above at_most ({self.at_most:g})")
        return self


class ObjectiveSettings(BoundSettings):
    """One objective: a metric, the direction that is better, and its coordinate of the reference point."""

    direction: Literal["minimize", "maximize"]
    """Which direction is better."""
    reference: float
    """Worst value that still counts: its coordinate of the hypervolume's reference point."""
    transform: Literal["none", "log"] = "none"
    """Scale for the search, early stopping and hypervolumes; `log` is the natural logarithm."""
    clip: tuple[float, float] | None = None
    """Values are clipped to these two bounds before the transform; no outlier then dominates the search."""

    @model_validator(mode="after")
    def _fits_its_scale(self) -> Self:
        low, high = self.clip or (None, None)
        if low is not None and high is not None and not low < high:
            raise ValueError(f"clip ([{low:g}, {high:g}]) must name the lower bound first")
        if self.transform == "log" and (self.reference <= 0 or (low is not None and low <= 0)):
            raise ValueError("a log transform needs a reference point, and a clip, above 0")
        # Metrics reach 0, and the search needs finite values.
        if self.transform == "log" and low is None:
            raise ValueError(
                "a log transform needs a clip above 0, such as [1.0e-4, 1.0]: the logarithm of 0 is no number"
            )
        return self


class SearchSettings(Settings):
    """The search: sampler, number of trials, and trials that are given."""

    sampler: Literal["tpe", "random", "qmc", "nsga2", "gp"] = "tpe"
    """Optuna sampler."""
    trials: PositiveInt = 16
    """Trials in the sweep."""
    seed: int = 0
    """Seed of the sampler."""
    recipes: tuple[str, ...] = ()
    """Published settings that are run first, by name, so that baselines are in every table."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Settings that are run next, as space keys and values; keys that are left out are sampled."""
    warm_start: tuple[str, ...] = ()
    """Earlier sweeps whose trials the sampler learns from: names in the same storage, sweep folders, or
    `mlflow:SWEEP`."""
    select: Literal["best_rung", "last"] = "best_rung"
    """Which rungs the sampler learns from and may join the front: every rung (the sampler: the best one), or
    the last one only."""
    newest_trials: Annotated[int, Field(ge=20)] | None = None
    """Number of newest trials that the sampler learns from, besides the front: bounds its time in very long
    sweeps. All when left out."""


class EarlyStoppingSettings(Settings):
    """Asynchronous successive halving on several objectives: a trial that ranks low at a rung ends there."""

    reduction: Annotated[float, Field(gt=1)] = 2.0
    """At each rung the best 1/reduction of the trials seen there goes on."""
    grace_rungs: PositiveInt = 1
    """First rungs, at which no trial is stopped."""
    ties: Literal["hypervolume", "crowding", "epsilon_net"] = "hypervolume"
    """How trials that do not dominate each other are ranked."""
    shield_frac: Share = 0.01
    """A trial whose rung adds more than this share of the front's hypervolume is never stopped there."""
    newest_trials: Annotated[int, Field(ge=10)] = 512
    """Number of newest trials at a rung with which a trial is compared: bounds the time of a decision."""
    floors: dict[str, BoundSettings] = Field(default_factory=dict)
    """Metrics and limits: a trial that violates one ends at once, at any rung."""


class BudgetSettings(Settings):
    """Budgets that end a sweep early, running trials at their next rung. `lethe extend` raises a budget."""

    wall_time_s: Positive | None = None
    """Wall time of the sweep over all its starts, in seconds."""
    worker_hours: Positive | None = None
    """Hours times workers (GPU-hours where each has a GPU); failed and repeated work counts."""
    trial_time_s: Positive | None = None
    """Wall time of one trial, in seconds."""
    failures: PositiveInt | None = None
    """Failed trials."""
    stagnant_trials: PositiveInt | None = None
    """Trials with a result in a row without growth of the hypervolume."""
    stagnation_frac: Share = 0.001
    """Share of the hypervolume that counts as growth."""


class ResourceSettings(Settings):
    """Resources of one lane, a warm group of workers that runs one trial after another."""

    workers_per_trial: PositiveInt = 2
    """ZeRO-3 ranks per lane."""
    cpus_per_worker: Positive = 1.0
    """CPU cores per worker; fractions share a core."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """GPUs per worker, 0 or 1: two NCCL ranks cannot share a GPU."""
    max_lanes: PositiveInt | None = None
    """Most trials at the same time; as many as the cluster holds when left out."""
    start_timeout_s: Positive = 600.0
    """Seconds a lane may take to start before the sweep ends with an error."""
    attempts: PositiveInt = 2
    """Times a trial is started if its workers die or hang, which the trial may have caused itself."""
    preemptions: Annotated[int, Field(ge=0)] = 20
    """Times a trial is started again, in addition to its attempts, because a node of its workers was lost, as
    spot nodes are."""
    quiet_timeout_s: Positive = 3600.0
    """Seconds without a step, a rung or an end of a job before its workers count as hung and are killed; must
    be longer than any evaluation."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps between checkpoints of a running trial, from which it resumes if its workers or the
    driver die; 0: none."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_gpus(cls, value: float) -> float:
        if value not in (0, 1):
            raise ValueError("must be 0 or 1: two NCCL ranks cannot share a GPU, and a rank uses one")
        return value


class TrackingSettings(Settings):
    """Additional data for MLflow. It changes no result, and may be changed when a sweep is resumed."""

    system_metrics_s: NonNegative = 0.0
    """Seconds between two measurements of each worker's CPU, memory and GPU, shown by MLflow as system
    metrics of the trial; 0: none."""

    @field_validator("system_metrics_s")
    @classmethod
    def _not_too_often(cls, value: float) -> float:
        if 0 < value < 0.1:
            raise ValueError("must be 0, or at least 0.1: a shorter time does not measure a CPU's load")
        return value


class BaselineSettings(Settings):
    """Baselines that are reported with the front, in addition to the original and the retrained model."""

    instruction: str | None = (
        "You have been asked to forget some of what you know. If the question is about any of it, answer as"
        " somebody who never knew."
    )
    """Unlearning by a prompt alone: the original model is also measured with this text before every question;
    null: it is not."""
    retrained_twin: bool = False
    """Also prepare and measure a second retrained model under another seed: the floor of every distance to
    the retrained model."""


class SweepSettings(Settings):
    """One YAML file is one sweep."""

    name: str
    """Name of the sweep: its folder, its study and its MLflow parent run."""
    description: str = ""
    """A sentence about the sweep, shown in reports."""
    redact: bool = False
    """Keep the data's text and the models' answers out of measurements, logs, MLflow and reports; hashes
    replace them."""
    model: ModelSettings
    data: DataSettings
    trial: TrialSettings = TrialSettings()
    space: dict[str, Domain] = Field(default_factory=dict)
    """Dotted trial keys and the domains over which they are searched."""
    objectives: dict[str, ObjectiveSettings] = Field(default_factory=dict)
    """Metrics to optimise; the benchmark's two when left out."""
    constraints: dict[str, BoundSettings] = Field(default_factory=dict)
    """Metrics and limits that a trial must satisfy on the validation part to join the front; the sampler
    learns them."""
    search: SearchSettings = SearchSettings()
    early_stopping: EarlyStoppingSettings | None = None
    """Stops bad trials at their rungs; no trial is stopped early when left out."""
    budget: BudgetSettings = BudgetSettings()
    resources: ResourceSettings = ResourceSettings()
    tracking: TrackingSettings = TrackingSettings()
    baselines: BaselineSettings = BaselineSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _bands_keep_text(self) -> Self:
        if self.evaluation.bands and self.redact:
            raise ValueError(
                "evaluation.bands keeps what the original model would say, and redact keeps text out: leave"
                " one of them out"
            )
        return self

    @model_validator(mode="after")
    def _judges_read_answers(self) -> Self:
        if "judge" in self.evaluation.probes and self.redact:
            raise ValueError(
                "the probe `judge` sends answers and the true text to another server, and redact keeps text"
                " out of everything: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _backward_passes_need_a_whole_model(self) -> Self:
        # Both change or differentiate whole weight matrices, which sharded inference never has at once.
        needing = ["gradient_norm"] if self.evaluation.gradient_norm else []
        needing += ["probes: [quantise]"] if "quantise" in self.evaluation.probes else []
        if needing and self.trial.engine.inference == "lockstep":
            raise ValueError(
                f"evaluation.{needing[0]} needs a full copy of the model: set trial.engine.inference to"
                " gathered"
            )
        return self

    @model_validator(mode="after")
    def _twins_are_trained_alike(self) -> Self:
        if self.baselines.retrained_twin and (self.model.base is None or self.model.retrained is not None):
            raise ValueError(
                "baselines.retrained_twin needs model.base, and no model.retrained: both are prepared alike,"
                " under two seeds"
            )
        return self

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        # The name becomes a folder, a study and a value in MLflow's filter strings.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", value):
            raise ValueError(
                "use letters, digits, '.', '_' and '-' (at most 80), starting with a letter or digit: it"
                " becomes a folder"
            )
        return value
