"""Runs one job after another on a warm engine. Knows no Ray: lanes and torchrun both call it."""

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
from trainables.analysis.step_dynamics import run_dynamics
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark, encode_examples, load_encoded_benchmark
from trainables.data.encoding import instructed, set_system_prompt
from trainables.durable_files import write_json
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
from trainables.worker.redaction import without_text

BAND_EXAMPLES = 48
"""Forget examples that likelihood bands follow: beam search takes as long as its many beams."""


class JobRunner:
    """One rank of a lane: keeps the engine, the tokenised data and measurements from job to job. Ranks:
    all."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._engine_key: Any = None
        self._data: dict[str, EncodedBenchmark] = {}

    def run(self, job: AnyJob, report: Report, decide: Decide | None = None) -> Finished | Stopped:
        """Run one job to its end.

        Args:
            job: The job.
            report: Receives the job's events on rank 0.
            decide: Decides about a trial at its rungs, equally on every rank; without it a trial runs to its
                end, which is kept.

        Returns:
            How the job ended, with the result of its kind, equal on every rank: see `HANDLERS`.

        Raises:
            TrialFailedError: The job's own settings make it fail; the runner can go on with the next job.
        """
        outcome = HANDLERS[type(job)](self, job, report, decide)
        return outcome if isinstance(outcome, Finished | Stopped) else Finished(outcome)

    def engine(self, folder: str, model: ModelSettings, trial: TrialSettings | None = None) -> Engine:
        """The warm engine with `folder` as its pristine weights; built anew only where that differs which it
        was built with."""
        trial = TrialSettings() if trial is None else trial
        # Two models of one shape may well have learnt other words.
        shape = [
            path.read_text() if (path := Path(folder, name)).is_file() else folder
            for name in ("config.json", "tokenizer.json")
        ]
        built_with = (trial.deepspeed, trial.trained, trial.lora.rank, trial.lora.modules)
        key = (
            *shape,
            model.dtype,
            model.attention,
            model.system_prompt,
            json.dumps(built_with, sort_keys=True),
        )
        if self._engine is None or self._engine_key != key:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, revision=model.revision, trust_remote_code=model.trust_remote_code
            )
            set_system_prompt(tokenizer, model.system_prompt)
            self._engine = None  # free the old one before the new one takes its memory
            self._data = {}  # its ids are the old tokenizer's
            self._engine, self._engine_key = Engine(folder, model, tokenizer, trial), key
        elif self._engine.folder != folder:
            self._engine.load(folder)
        return self._engine

    def data(self, settings: DataSettings, engine: Engine) -> EncodedBenchmark:
        """The benchmark, tokenised once."""
        key = settings.model_dump_json()
        if key not in self._data:
            self._data = {key: load_encoded_benchmark(settings, engine.tokenizer)}
        return self._data[key]

    def _prepare(self, job: PrepareJob, report: Report) -> dict[str, Any]:
        """Returns: `loss_nats` of the last step, and `folder`."""
        if job.model.base == "scratch" and not Path(job.initial, "model.safetensors").is_file():
            if dist.get_rank() == 0:
                write_scratch_model(job)
            dist.barrier()  # all ranks read what rank 0 writes
        engine = self.engine(job.initial, job.model)
        benchmark = self.data(job.data, engine).benchmark
        examples = benchmark.target_text if job.text == "target" else benchmark.retrained_text
        loss = train_on_text(
            engine, encode_examples(engine.tokenizer, examples), job.model.prepare, job.engine, report
        )
        save_policy(engine, Path(job.output))
        return {"loss_nats": loss, "folder": job.output}

    def _evaluate(self, job: EvaluateJob) -> dict[str, Any]:
        """Returns: what was written to `output`, equal on every rank: see `EvaluateJob`."""
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
        reference = reference_logp(engine, data, job.engine) if job.reference_logp else {}
        outcome: dict[str, Any] = {
            "metrics": metrics,
            "items": without_text(measured.items) if job.redact else measured.items,
            "reference_logp_nats": reference,
        }
        if job.evaluation.probes:
            leaks = {"": {"leaks": measured.leaks}}
            outcome["leaks"] = without_text(leaks)[""]["leaks"] if job.redact else measured.leaks
            outcome["facts"] = measured.facts
        if job.likelihood_bands and job.evaluation.bands:
            with inference(engine, job.engine, "pristine") as model:
                groups = band_groups(model, data, job.evaluation.bands, BAND_EXAMPLES)
                metrics |= band_metrics(model, groups)
            outcome["probes"] = as_json(groups)  # the key of measurements on disk
        if engine.rank == 0:
            write_json(Path(job.output), outcome, indent=None)
        return outcome

    def _trial(self, job: TrialJob, report: Report, decide: Decide | None) -> Finished | Stopped:
        """Returns `metrics` of the last rung and `seconds` by phase."""
        engine = self.engine(job.folder, job.model, job.trial)
        data = self.data(job.data, engine)
        original, retrained = read_measurement(job.original), read_measurement(job.retrained)
        reference = (
            original["reference_logp_nats"] if original else reference_logp(engine, data, job.trial.engine)
        )

        probes = from_json((original or {}).get("probes", {}))

        def evaluate(parts: tuple[str, ...]) -> dict[str, float]:
            result = measure(
                engine, data, job.trial, parts, job.evaluation, original=original, retrained=retrained
            )
            if not probes or "validation" not in parts:
                return dict(result.metrics)
            with inference(engine, job.trial.engine) as model:
                return {**result.metrics, **band_metrics(model, probes)}

        def save(rung: int) -> None:
            if job.weights is not None:
                save_policy(engine, Path(job.weights, f"rung{rung}"))

        if decide is None or job.stop_at_rung is not None:
            decide = alone(job.stop_at_rung)
        result = run_trial(
            engine,
            job.trial,
            data,
            reference,
            AtRungs(evaluate, decide, save),
            report,
            checkpoints_of(engine, job, report),
        )
        found = {"metrics": dict(result.metrics), "seconds": dict(result.seconds)}
        return Finished(found) if result.stopped is None else Stopped(result.stopped, found)


def _dynamics(runner: JobRunner, job: DynamicsJob, report: Report, decide: Decide | None) -> dict[str, Any]:
    """Returns: see `run_dynamics`."""
    return run_dynamics(job, lambda line: report(LineLogged(line)))


def _benchmark(runner: JobRunner, job: BenchmarkJob, report: Report, decide: Decide | None) -> dict[str, Any]:
    """Returns: `tasks`, metrics by task."""
    from trainables.analysis.lm_eval_harness import run_benchmark

    def on_pass(step: int, steps: int) -> None:
        report(StepDone(step, steps))

    return {"tasks": run_benchmark(job, on_pass)}


Handler = Callable[[JobRunner, Any, Report, Decide | None], dict[str, Any] | Finished | Stopped]
HANDLERS: dict[type[AnyJob], Handler] = {
    PrepareJob: lambda runner, job, report, decide: runner._prepare(job, report),
    EvaluateJob: lambda runner, job, report, decide: runner._evaluate(job),
    TrialJob: lambda runner, job, report, decide: runner._trial(job, report, decide),
    DynamicsJob: _dynamics,
    BenchmarkJob: _benchmark,
}
"""What runs each kind of job, on all ranks of a lane. The last two hold whole models in one process: their
lanes have one worker."""
