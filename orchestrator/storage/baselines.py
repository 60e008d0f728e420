"""The models a sweep stands on: prepared where they are missing, measured once, named by what went into
them."""

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
"""Raise it when the same settings would train another model or measure another number, so that caches are not
believed."""

MEASUREMENT_VERSION = 3
"""Raise it when the same model would be measured in other metrics: measurements are then made anew, the
models are kept."""


@dataclass(frozen=True)
class Baseline:
    """A model that stands beside the front, and its measurement."""

    folder: str
    measurement: Path

    def metrics(self) -> dict[str, float]:
        """Its metrics, with keys such as `test/utility`.

        Raises:
            UserError: The measurement was removed by hand.
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
    """What has to be there before the first trial, and what of it is there already."""

    original: Baseline
    retrained: Baseline | None
    prompted: Baseline | None
    """The original with an instruction to forget."""
    retrained_twin: Baseline | None
    """The retrained model under another seed: how far from each other two models are that both never knew."""
    prepare: tuple[PrepareJob, ...]
    measure: tuple[EvaluateJob, ...]
    data_digest: str


def plan_baselines(sweep: SweepSettings, models: Path, data_digest: str) -> Plan:
    """Work out the folders of the baselines and the jobs that are missing; starts nothing.

    Args:
        sweep: Resolved settings.
        models: Folder of prepared models.
        data_digest: Hash of the benchmark's contents: `Benchmark.digest`.
    """
    planner = _Planner(sweep, models, data_digest)
    retrained_folder = planner.folder_of("retrained", "retrained", sweep.model, sweep.model.retrained)
    target_folder = planner.folder_of("target", "target", sweep.model, sweep.model.target)
    twin_folder = (
        planner.folder_of("retrained_twin", "retrained", _twin(sweep.model), None)
        if sweep.baselines.retrained_twin
        else None
    )
    assert target_folder is not None, "the settings refuse a sweep with neither target nor base"
    retrained = planner.measured("retrained", retrained_folder, None) if retrained_folder else None
    original = planner.measured("original", target_folder, retrained)
    instruction = sweep.baselines.instruction
    prompted = (
        planner.measured("prompted", target_folder, retrained, instruction)
        if instruction is not None
        else None
    )
    twin = planner.measured("retrained_twin", twin_folder, retrained) if twin_folder else None
    return Plan(
        original, retrained, prompted, twin, tuple(planner.prepare), tuple(planner.measure), planner.digest
    )


def trial_job(
    sweep: SweepSettings, plan: Plan, trial_id: str, params: Mapping[str, Any], **where: Any
) -> TrialJob:
    """The job of a trial of this sweep, measured against the sweep's baselines.

    Args:
        sweep: Settings with objectives filled in.
        plan: The sweep's baselines.
        trial_id: Name of the trial.
        params: Values of the search space by key, and of any other key of `trial:`, such as `seed`.
        where: Fields of `TrialJob` that say what is kept: `weights`, `checkpoint`, `stop_at_rung`.
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
    """The same model from other initial weights, where they are drawn, and with its text in another order."""
    scratch = model.scratch.model_copy(update={"seed": model.scratch.seed + 1})
    return model.model_copy(
        update={
            "scratch": scratch,
            "prepare": model.prepare.model_copy(update={"seed": model.prepare.seed + 1}),
        }
    )


class _Planner:
    """Names models and measurements by what they are made from, and collects the jobs for those that are not
    there yet."""

    def __init__(self, sweep: SweepSettings, models: Path, digest: str) -> None:
        self.sweep, self.models, self.digest = sweep, models, digest
        self.prepare: list[PrepareJob] = []
        self.measure: list[EvaluateJob] = []

    def folder_of(
        self, name: str, text: Literal["target", "retrained"], model: ModelSettings, given: str | None
    ) -> str | None:
        """Where the model is, or will be once prepared; None when there is nothing to prepare it from."""
        if given is not None or model.base is None:
            return given
        start: dict[str, Any] = {
            "data": self.digest,
            "base": model.base,
            "revision": model.revision,
            "scratch": model.scratch.model_dump(),
        }
        start |= {"dtype": model.dtype, "system_prompt": model.system_prompt}
        folder = (
            self.models / f"{text}-{_hash(start | {'text': text, 'prepare': model.prepare.model_dump()})}"
        )
        initial = str(self.models / f"initial-{_hash(start)}") if model.base == "scratch" else model.base
        if not folder.is_dir():
            engine = self.sweep.trial.engine
            job = PrepareJob(
                name=name,
                model=model,
                data=self.sweep.data,
                text=text,
                initial=initial,
                output=str(folder),
                engine=engine,
            )
            self.prepare.append(job)
        return str(folder)

    def measured(
        self, name: str, folder: str, retrained: Baseline | None, instruction: str | None = None
    ) -> Baseline:
        """The model with the file of its measurement, which compares it with `retrained`."""
        sweep = self.sweep
        made_from: dict[str, Any] = {
            "folder": folder,
            "revision": sweep.model.revision,
            "dtype": sweep.model.dtype,
            "data": self.digest,
        }
        made_from |= {"system_prompt": sweep.model.system_prompt, "measurement": MEASUREMENT_VERSION}
        made_from |= {"limits": sweep.data.model_dump(), "retrained": retrained.folder if retrained else None}
        made_from |= {"instruction": instruction} if instruction is not None else {}
        # A measurement with text in it must not serve a sweep that wants none.
        made_from |= {"redact": True} if sweep.redact else {}
        made_from |= (
            {"evaluation": sweep.evaluation.model_dump()} if sweep.evaluation != EvaluationSettings() else {}
        )
        baseline = Baseline(folder, self.models / f"measured-{name}-{_hash(made_from)}.json")
        evaluation = sweep.evaluation
        if evaluation.fluency == "perplexity" and name not in ("original", "prompted"):
            # The perplexity is that under the original model, which a lane that measures another one does not
            # hold.
            evaluation = evaluation.model_copy(update={"fluency": "none"})
        if not baseline.measurement.is_file():
            against = str(retrained.measurement) if retrained else None
            job = EvaluateJob(
                name=name,
                model=sweep.model,
                data=sweep.data,
                folder=folder,
                output=str(baseline.measurement),
                retrained=against,
                instruction=instruction,
                redact=sweep.redact,
                evaluation=evaluation,
                reference_logp=instruction is None,
                likelihood_bands=name == "original",
                engine=sweep.trial.engine,
            )
            self.measure.append(job)
        return baseline


def read_baselines(folder: SweepFolder) -> dict[str, Baseline]:
    """The sweep's baselines; empty before they are measured."""
    if not folder.baselines.is_file():
        return {}
    return {
        name: Baseline(entry["folder"], Path(entry["measurement"]))
        for name, entry in json.loads(folder.baselines.read_text()).items()
    }


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps({**value, "version": RECIPE_VERSION}, sort_keys=True).encode()
    ).hexdigest()[:16]
