"""Runs one job after another on a warm engine.

Ray is not imported here, because jobs also run under torchrun: see `trainables.run_job`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import AutoTokenizer

from search_spaces.settings.data_settings import DataSettings
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import TrialSettings
from trainables.analysis.likelihood_bands import as_json, band_groups, band_metrics, from_json
from trainables.analysis.lm_eval_harness import run_benchmark
from trainables.analysis.step_dynamics import run_dynamics
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark, encode_examples, load_encoded_benchmark
from trainables.data.encoding import instructed, set_system_prompt
from trainables.durable_files import write_json
from trainables.engine.deepspeed_setup import collect_all_garbage
from trainables.engine.zero3_engine import Engine
from trainables.events import Decide, Finished, LineLogged, Report, StepDone, Stopped
from trainables.generation.inference import inference
from trainables.jobs import (
    AnyJob,
    BenchmarkJob,
    DynamicsJob,
    EvaluateJob,
    PrepareJob,
    TrialJob,
    read_measurement,
)
from trainables.training.checkpoints import checkpoints_of
from trainables.training.preparation import save_policy, train_on_text, write_scratch_model
from trainables.training.rungs import AtRungs, alone
from trainables.training.trial import run_trial
from trainables.worker.model_measurement import measure, reference_logp
from trainables.worker.redaction import redact_items, redact_parts

BAND_EXAMPLES = 48
"""Number of forget examples whose likelihood bands are followed; beam search is slow for each of them."""


class JobRunner:
    """Runs jobs on one rank of a lane; the engine and the encoded data stay for the next job. Ranks: all."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._engine_key: Any = None
        self._data: dict[str, EncodedBenchmark] = {}

    def run(self, job: AnyJob, report: Report, decide: Decide | None = None) -> Finished | Stopped:
        """Run one job to its end.

        Args:
            job: The job; some kinds need a lane of one worker: see `HANDLERS`.
            report: Receives the job's events on rank 0.
            decide: Decides about a trial at its rungs, equally on every rank; when None, a trial runs to its
                last rung and only that rung is kept.

        Returns:
            The outcome, equal on every rank; its result depends on the kind of job: see `HANDLERS`.

        Raises:
            TrialFailedError: The job's own settings make it fail; the runner can run the next job.
        """
        outcome = HANDLERS[type(job)](self, job, report, decide)
        return outcome if isinstance(outcome, Finished | Stopped) else Finished(outcome)

    def engine(self, folder: str, model: ModelSettings, trial: TrialSettings | None = None) -> Engine:
        """Return the engine with `folder` as its pristine weights.

        The engine is rebuilt only if the settings it was built with have changed; otherwise it loads the
        weights if they are others.

        Args:
            folder: Model folder or hub id.
            model: Settings of the model.
            trial: Settings that the engine is built with, such as DeepSpeed's; the defaults when None.
        """
        trial = TrialSettings() if trial is None else trial
        key = _engine_key(folder, model, trial)
        if self._engine is None or self._engine_key != key:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, revision=model.revision, trust_remote_code=model.trust_remote_code
            )
            set_system_prompt(tokenizer, model.system_prompt)
            # The old engine is freed before the new one takes its memory.
            self._engine = None
            collect_all_garbage()
            # The data was encoded by the old tokenizer.
            self._data = {}
            self._engine = Engine(folder, model, tokenizer, trial)
            self._engine_key = key
        elif self._engine.folder != folder:
            self._engine.load(folder)
        return self._engine

    def data(self, settings: DataSettings, engine: Engine) -> EncodedBenchmark:
        """Return the encoded benchmark, which is loaded only if the data or the tokenizer has changed."""
        key = settings.model_dump_json()
        if key not in self._data:
            self._data = {key: load_encoded_benchmark(settings, engine.tokenizer)}
        return self._data[key]

    def _prepare(self, job: PrepareJob, report: Report) -> dict[str, Any]:
        """Train and write a model.

        Returns:
            `loss_nats` of the last step, and `folder`.
        """
        if job.model.base == "scratch" and not Path(job.initial, "model.safetensors").is_file():
            if dist.get_rank() == 0:
                write_scratch_model(job)
            # All ranks read what rank 0 writes.
            dist.barrier()
        engine = self.engine(job.initial, job.model)
        benchmark = self.data(job.data, engine).benchmark
        examples = benchmark.target_text if job.text == "target" else benchmark.retrained_text
        encoded = encode_examples(engine.tokenizer, examples)
        loss = train_on_text(engine, encoded, job.model.prepare, job.engine, report)
        save_policy(engine, Path(job.output))
        return {"loss_nats": loss, "folder": job.output}

    def _evaluate(self, job: EvaluateJob) -> dict[str, Any]:
        """Measure a model as it is.

        Returns:
            What is written to `output`: see `EvaluateJob`.
        """
        engine = self.engine(job.folder, job.model)
        data = self.data(job.data, engine)
        with instructed(engine.tokenizer, job.instruction):
            measured = measure(
                engine,
                data,
                TrialSettings(engine=job.engine),
                job.parts,
                job.evaluation,
                weights="pristine",
                retrained=read_measurement(job.retrained),
            )
        metrics = dict(measured.metrics)
        result: dict[str, Any] = {
            "metrics": metrics,
            "items": redact_parts(measured.items) if job.redact else measured.items,
            "reference_logp_nats": reference_logp(engine, data, job.engine) if job.reference_logp else {},
        }
        if job.evaluation.probes:
            result["leaks"] = redact_items(measured.leaks) if job.redact else measured.leaks
            result["facts"] = measured.facts
        if job.likelihood_bands and job.evaluation.bands:
            with inference(engine, job.engine, "pristine") as model:
                groups = band_groups(model, data, job.evaluation.bands, BAND_EXAMPLES)
                metrics |= band_metrics(model, groups)
            # The key is part of the files on disk, so it keeps its old name.
            result["probes"] = as_json(groups)
        if engine.rank == 0:
            write_json(Path(job.output), result, indent=None)
        return result

    def _trial(self, job: TrialJob, report: Report, decide: Decide | None) -> Finished | Stopped:
        """Run a trial.

        Returns:
            The outcome with `metrics` of the last rung and `seconds` by phase.
        """
        engine = self.engine(job.folder, job.model, job.trial)
        data = self.data(job.data, engine)
        original = read_measurement(job.original)
        retrained = read_measurement(job.retrained)
        if original:
            reference = original["reference_logp_nats"]
            bands = from_json(original.get("probes", {}))
        else:
            reference = reference_logp(engine, data, job.trial.engine)
            bands = {}

        def evaluate(parts: tuple[str, ...]) -> dict[str, float]:
            """Measure the policy on parts of the benchmark, with the bands if validation is among them."""
            measured = measure(
                engine, data, job.trial, parts, job.evaluation, original=original, retrained=retrained
            )
            metrics = dict(measured.metrics)
            if bands and "validation" in parts:
                with inference(engine, job.trial.engine) as model:
                    metrics |= band_metrics(model, bands)
            return metrics

        def save(rung: int) -> None:
            if job.weights is not None:
                save_policy(engine, Path(job.weights, f"rung{rung}"))

        if decide is None or job.stop_at_rung is not None:
            decide = alone(job.stop_at_rung)
        at_rungs = AtRungs(evaluate, decide, save)
        checkpoints = checkpoints_of(engine, job, report)
        result = run_trial(engine, job.trial, data, reference, at_rungs, report, checkpoints)
        found = {"metrics": dict(result.metrics), "seconds": dict(result.seconds)}
        return Finished(found) if result.stopped is None else Stopped(result.stopped, found)


def _dynamics(runner: JobRunner, job: DynamicsJob, report: Report, decide: Decide | None) -> dict[str, Any]:
    """Predict learning dynamics, and return the result of `run_dynamics`."""
    return run_dynamics(job, lambda line: report(LineLogged(line)))


def _benchmark(runner: JobRunner, job: BenchmarkJob, report: Report, decide: Decide | None) -> dict[str, Any]:
    """Run public benchmarks, and return `tasks`, metrics by task."""

    def on_pass(step: int, steps: int) -> None:
        report(StepDone(step, steps))

    return {"tasks": run_benchmark(job, on_pass)}


def _engine_key(folder: str, model: ModelSettings, trial: TrialSettings) -> tuple[str | None, ...]:
    """Return everything that an engine cannot change after it was built."""
    # The tokenizer's file too: two models of the same shape may have different vocabularies. A hub id has no
    # files here, so it stands for both.
    files = [Path(folder, name) for name in ("config.json", "tokenizer.json")]
    contents = [file.read_text() if file.is_file() else folder for file in files]
    built_with = (trial.deepspeed, trial.trained, trial.lora.rank, trial.lora.modules)
    built_with_json = json.dumps(built_with, sort_keys=True)
    return (*contents, model.dtype, model.attention, model.system_prompt, built_with_json)


Handler = Callable[[JobRunner, Any, Report, Decide | None], dict[str, Any] | Finished | Stopped]
HANDLERS: dict[type[AnyJob], Handler] = {
    PrepareJob: lambda runner, job, report, decide: runner._prepare(job, report),
    EvaluateJob: lambda runner, job, report, decide: runner._evaluate(job),
    TrialJob: lambda runner, job, report, decide: runner._trial(job, report, decide),
    DynamicsJob: _dynamics,
    BenchmarkJob: _benchmark,
}
"""Functions that run a job and return its result or outcome, by kind of job. Ranks: all.

Dynamics and benchmarks hold whole models in one process, so their lanes must have one worker.
"""
