"""Plans a sweep's baselines: which models must be prepared and measured, and where their files lie.

Models and measurements are named by a hash of everything that they depend on. Sweeps that would prepare the
same model therefore share it, and none uses a model that was made with other settings.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.jobs import EvaluateJob, PrepareJob, TrialJob

RECIPE_VERSION = 1
"""Increase it when the same settings would give another model or other numbers: all caches become invalid."""

MEASUREMENT_VERSION = 3
"""Increase it when a model would be measured in other metrics: it is measured again, but not prepared."""


@dataclass(frozen=True)
class Baseline:
    """A model that is reported beside the front, and its measurement."""

    folder: str
    """Folder or hub id of its weights."""
    measurement: Path
    """File of its measurement, which may not exist yet."""

    def metrics(self) -> dict[str, float]:
        """Returns the model's metrics, with keys such as `test/utility`.

        Raises:
            UserError: The file of the measurement is missing: it was removed by hand.
        """
        if not self.measurement.is_file():
            raise UserError(
                "a measurement is gone",
                file=self.measurement,
                remedy="run `lethe prepare` on the sweep file to measure again",
            )
        metrics: dict[str, float] = json.loads(self.measurement.read_text())["metrics"]
        return metrics


@dataclass(frozen=True)
class Plan:
    """The baselines that a sweep needs before its first trial, and the jobs for those that are missing."""

    original: Baseline
    """The model from which trials unlearn."""
    retrained: Baseline | None
    """A model that was trained without the forget set; None if there is none to prepare it from."""
    prompted: Baseline | None
    """The original with an instruction to forget before every question."""
    retrained_twin: Baseline | None
    """The retrained model under another seed. The distance between the two is what chance alone makes."""
    prepare: tuple[PrepareJob, ...]
    """Jobs for models that do not exist yet."""
    measure: tuple[EvaluateJob, ...]
    """Jobs for measurements that do not exist yet; each follows the one that it is compared with."""
    data_digest: str
    """Hash of the benchmark's contents."""


def plan_baselines(sweep: SweepSettings, models: Path, data_digest: str) -> Plan:
    """Plans the baselines of a sweep; starts no job and writes nothing.

    Args:
        sweep: Resolved settings.
        models: Folder of prepared models.
        data_digest: Hash of the benchmark's contents: `Benchmark.digest`.
    """
    planner = _Planner(sweep, models, data_digest)
    retrained_folder = planner.folder_of("retrained", "retrained", sweep.model, sweep.model.retrained)
    target_folder = planner.folder_of("target", "target", sweep.model, sweep.model.target)
    assert target_folder is not None, "the settings refuse a sweep with neither target nor base"
    # The retrained model is measured first: every other measurement is compared with it.
    retrained = planner.measured("retrained", retrained_folder, None) if retrained_folder else None
    original = planner.measured("original", target_folder, retrained)
    prompted = twin = None
    if sweep.baselines.instruction is not None:
        prompted = planner.measured("prompted", target_folder, retrained, sweep.baselines.instruction)
    if sweep.baselines.retrained_twin:
        # Never a given model: the settings refuse a twin of a retrained model that was not prepared here.
        twin_folder = planner.folder_of("retrained_twin", "retrained", _twin(sweep.model), None)
        twin = planner.measured("retrained_twin", twin_folder, retrained) if twin_folder else None
    return Plan(
        original, retrained, prompted, twin, tuple(planner.prepare), tuple(planner.measure), data_digest
    )


def trial_job(
    sweep: SweepSettings, plan: Plan, trial_id: str, params: Mapping[str, Any], **where: Any
) -> TrialJob:
    """Returns the job of a trial of this sweep, which measures it against the sweep's baselines.

    Args:
        sweep: Settings with objectives filled in.
        plan: The sweep's baselines.
        trial_id: Name of the trial.
        params: Values of the search space by key, and of any other key of `trial:`, such as `seed`.
        where: Further fields of `TrialJob`: `weights`, `checkpoint`, `stop_at_rung`.
    """
    return TrialJob(
        trial_id=trial_id,
        model=sweep.model,
        data=sweep.data,
        evaluation=sweep.evaluation,
        trial=apply(sweep.trial, params),
        folder=plan.original.folder,
        original=str(plan.original.measurement),
        retrained=str(plan.retrained.measurement) if plan.retrained else None,
        **where,
    )


def _twin(model: ModelSettings) -> ModelSettings:
    """Returns settings of the same model with other initial weights and another order of its examples."""
    scratch = model.scratch.model_copy(update={"seed": model.scratch.seed + 1})
    prepare = model.prepare.model_copy(update={"seed": model.prepare.seed + 1})
    return model.model_copy(update={"scratch": scratch, "prepare": prepare})


class _Planner:
    """Names models and measurements by their contents, and collects the jobs for those that do not exist."""

    def __init__(self, sweep: SweepSettings, models: Path, digest: str) -> None:
        self.sweep, self.models, self.digest = sweep, models, digest
        self.prepare: list[PrepareJob] = []
        self.measure: list[EvaluateJob] = []

    def folder_of(
        self, name: str, text: Literal["target", "retrained"], model: ModelSettings, given: str | None
    ) -> str | None:
        """Returns the folder of a model, and adds the job that prepares it if it does not exist.

        Args:
            name: Name of the baseline.
            text: Which text of the benchmark the model is trained on.
            model: Settings of the model.
            given: The model that the sweep file names, which needs no preparation.

        Returns:
            Folder or hub id; None if no model is given and there is no base to prepare one from.
        """
        if given is not None or model.base is None:
            return given
        start = {
            "data": self.digest,
            "base": model.base,
            "revision": model.revision,
            "scratch": model.scratch.model_dump(),
            "dtype": model.dtype,
            "system_prompt": model.system_prompt,
        }
        trained = start | {"text": text, "prepare": model.prepare.model_dump()}
        folder = self.models / f"{text}-{_hash(trained)}"
        # Without the recipe in its name, the target and the retrained model share their initial weights.
        initial = str(self.models / f"initial-{_hash(start)}") if model.base == "scratch" else model.base
        if not folder.is_dir():
            job = PrepareJob(
                name=name,
                model=model,
                data=self.sweep.data,
                text=text,
                initial=initial,
                output=str(folder),
                engine=self.sweep.trial.engine,
            )
            self.prepare.append(job)
        return str(folder)

    def measured(
        self, name: str, folder: str, retrained: Baseline | None, instruction: str | None = None
    ) -> Baseline:
        """Returns a model with its measurement, and adds the job that measures it if that is missing.

        Args:
            name: Name of the baseline.
            folder: Folder or hub id of the model.
            retrained: The baseline that the measurement is compared with.
            instruction: Text before every question.
        """
        sweep, evaluation = self.sweep, self.sweep.evaluation
        contents: dict[str, Any] = {
            "folder": folder,
            "revision": sweep.model.revision,
            "dtype": sweep.model.dtype,
            "data": self.digest,
            "system_prompt": sweep.model.system_prompt,
            "measurement": MEASUREMENT_VERSION,
            "limits": sweep.data.model_dump(),
            "retrained": retrained.folder if retrained else None,
        }
        # These keys are absent by default, so that measurements from before the settings existed stay valid.
        if instruction is not None:
            contents["instruction"] = instruction
        if sweep.redact:
            contents["redact"] = True
        if evaluation != EvaluationSettings():
            contents["evaluation"] = evaluation.model_dump()
        baseline = Baseline(folder, self.models / f"measured-{name}-{_hash(contents)}.json")
        if baseline.measurement.is_file():
            return baseline
        if evaluation.fluency == "perplexity" and name not in ("original", "prompted"):
            # Perplexity is computed under the original model, and a lane holds only the model it measures.
            evaluation = evaluation.model_copy(update={"fluency": "none"})
        job = EvaluateJob(
            name=name,
            model=sweep.model,
            data=sweep.data,
            folder=folder,
            output=str(baseline.measurement),
            retrained=str(retrained.measurement) if retrained else None,
            instruction=instruction,
            redact=sweep.redact,
            evaluation=evaluation,
            # Trials are compared with the original model without an instruction.
            reference_logp=instruction is None,
            likelihood_bands=name == "original",
            engine=sweep.trial.engine,
        )
        self.measure.append(job)
        return baseline


def read_baselines(folder: SweepFolder) -> dict[str, Baseline]:
    """Returns the sweep's baselines by name; empty before they are measured."""
    if not folder.baselines.is_file():
        return {}
    entries = json.loads(folder.baselines.read_text())
    return {name: Baseline(entry["folder"], Path(entry["measurement"])) for name, entry in entries.items()}


def _hash(value: Mapping[str, Any]) -> str:
    # Sorted keys: the order in which settings are declared must not invalidate caches. 16 hexadecimal digits
    # are 64 bits, enough for any number of models in one folder.
    text = json.dumps({**value, "version": RECIPE_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
