"""Runs a sweep from settings to a front: lanes up, baselines, trials, report. Starting it again goes on where
it was."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cluster.capacity.lane_capacity import require_lanes
from orchestrator.followups.audits import plan_audits, run_audits
from orchestrator.followups.confirmation import confirmation_seeds, plan_repetitions, run_repetitions
from orchestrator.followups.reproduction import Outcome, reproduce_trial
from orchestrator.lanes.lane_pool import LanePool
from orchestrator.lanes.library_logs import library_logs
from orchestrator.lanes.ray_session import ray_session
from orchestrator.lanes.sigterm import terminating
from orchestrator.lanes.system_metrics_collector import collect_system_metrics
from orchestrator.pareto.member_selection import select_members
from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.budget import StopCriterion, wall_s_of_earlier_starts
from orchestrator.search.early_stopping import RungDecider
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.search.warm_start import warm_trials
from orchestrator.storage.baselines import Plan, plan_baselines
from orchestrator.storage.cleaning import drop_unfinished
from orchestrator.storage.followup_records import Audit, Confirmation, Subject, read_confirmations
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import ProposedTrial, TrialRecord
from orchestrator.sweep.publisher import Publisher
from orchestrator.sweep.ray_tune import RungScheduler, StudySearcher, TuneTrial
from orchestrator.sweep.session import ensure_baselines
from orchestrator.sweep.trial_recorder import Observer, TrialRecorder
from orchestrator.tracking.tracked_sweep import read_tracked_trials
from orchestrator.tracking.tracking_store import EXPERIMENT
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.jobs import AuditJob, TrialJob

logger = logging.getLogger(__name__)

# A lease waits and holds nothing. Zero CPUs alone are refused by Tune, and a fraction of one can starve the
# lanes. On the head, without which nothing goes on: elsewhere it could go away, and its trial would fail with
# it.
TUNE_TRIAL_RESOURCES = {"CPU": 0, "memory": 1e6, "node:__internal_head__": 1e-4}


@dataclass(frozen=True)
class SweepRun:
    """One start of a sweep."""

    sweep: SweepSettings
    file: str
    folder: SweepFolder
    tracking_uri: str
    observer: Observer
    worker: Callable[[dict[str, Any]], None] | None = None
    """What the lanes' workers run: see `LanePool`."""

    def run(self) -> list[TrialRecord]:
        """Run what remains.

        Returns:
            All trials of the sweep.

        Raises:
            UserError: Settings, data, models or the cluster do not allow it, or the lanes were lost on the
                way.
        """
        with self.folder.opened(self.sweep, self.file) as resumed, library_logs(self.folder.driver_log):
            plan = plan_baselines(self.sweep, self.folder.models)
            study = self._open_study()
            sweep_state = self._sweep_state(study)
            self.folder.stop_request.unlink(missing_ok=True)
            stop_criterion = StopCriterion(
                self.sweep.budget,
                sweep_state,
                self.folder.stop_request,
                wall_s_of_earlier_starts(sweep_state.records.values()),
            )
            if resumed:
                running, total = len(sweep_state.running), self.sweep.search.trials
                self.observer.say(
                    f"resuming {self.sweep.name}: {sweep_state.ended} of {total} trials are done, {running}"
                    " were running and start again"
                )
            publisher = Publisher(
                self.sweep,
                self.folder,
                study,
                sweep_state,
                self.tracking_uri,
                plan.data_digest,
                self.observer.say,
            )
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking") as tracking:

                def on_change(numbers: Iterable[int]) -> Future[None]:
                    sending = tracking.submit(publisher.trials_changed, tuple(numbers))
                    sending.add_done_callback(_log_failure)
                    return sending

                recorder = TrialRecorder(
                    study,
                    sweep_state,
                    self.folder,
                    RungDecider(self.sweep, sweep_state),
                    stop_criterion,
                    self.observer,
                    on_change,
                )
                recorder.tidy()
                try:
                    if study.remaining() and stop_criterion.reason() is None:
                        self._run_trials(plan, study, recorder, on_change)
                        drop_unfinished(self.folder, study.records())  # now that no lane can write any more
                finally:
                    if terminating():
                        tracking.submit(publisher.sweep_terminated).result()
                    else:
                        self.observer.stage("writing the report")
                        tracking.submit(
                            publisher.sweep_ended, complete=_complete(study, sweep_state)
                        ).result()
            self._say_why_it_ended(study, stop_criterion)
            return study.records()

    def _open_study(self) -> Study:
        warm = warm_trials(
            self.folder, self.sweep, partial(read_tracked_trials, self.tracking_uri, EXPERIMENT)
        )
        if warm:
            self.observer.say(
                f"warm start: the sampler learns from {len(warm)} trials of"
                f" {', '.join(self.sweep.search.warm_start)}"
            )
        return Study.open(self.folder.journal, self.sweep, warm)

    def _say_why_it_ended(self, study: Study, stop_criterion: StopCriterion) -> None:
        reason = stop_criterion.reason()
        if reason is not None and study.remaining():
            more = (
                f"lift it and run again, or `lethe extend {self.sweep.name}`"
                if reason.startswith("budget.")
                else "`lethe run` goes on"
            )
            self.observer.say(
                f"the sweep ended with {study.remaining()} trials left: {reason}. To go on: {more}."
            )

    def prepare(self) -> Plan:
        """Prepare and measure the models that the sweep stands on, and start no trial.

        Returns:
            Where they lie.

        Raises:
            UserError: Settings, data, models or the cluster do not allow it.
        """
        with self.folder.opened(self.sweep, self.file), library_logs(self.folder.driver_log):
            plan = plan_baselines(self.sweep, self.folder.models)
            with ray_session():
                lanes = min(self._lanes(), max(1, len(plan.prepare)))
                with LanePool(lanes, self.sweep.resources, self.folder.tune, worker=self.worker) as pool:
                    ensure_baselines(plan, pool, self.folder, self.observer.stage)
            return plan

    def confirm(self, picked: str, seeds: int) -> list[Confirmation]:
        """Run members of the front again under new seeds; those that have run already are kept.

        Args:
            picked: Which members: see `orchestrator.pareto.member_selection`.
            seeds: How many new seeds for each.

        Returns:
            All confirmations of the sweep.

        Raises:
            UserError: No such member, the cluster does not allow it, or the lanes were lost on the way.
        """
        with self.folder.opened(self.sweep, self.file), library_logs(self.folder.driver_log):
            plan = plan_baselines(self.sweep, self.folder.models)
            study = self._open_study()
            sweep_state = self._sweep_state(study)
            members = select_members(sweep_state.reported_front, picked)
            repetitions = plan_repetitions(
                members, confirmation_seeds(self.sweep, seeds), read_confirmations(self.folder)
            )
            if repetitions:
                self.observer.stage("starting Ray")
                with ray_session():
                    lanes = min(self._lanes(), len(repetitions))
                    with LanePool(
                        lanes, self.sweep.resources, self.folder.tune, len(repetitions), self.worker
                    ) as pool:
                        ensure_baselines(plan, pool, self.folder, self.observer.stage)
                        with self._watching(pool):
                            run_repetitions(
                                repetitions,
                                self.sweep,
                                plan,
                                pool,
                                self.folder,
                                self.observer.say,
                                self.observer.stage,
                            )
            self.observer.stage("writing the report")
            publisher = Publisher(
                self.sweep,
                self.folder,
                study,
                sweep_state,
                self.tracking_uri,
                plan.data_digest,
                self.observer.say,
            )
            publisher.sweep_ended(complete=_complete(study, sweep_state))
            return read_confirmations(self.folder)

    def audit(self, members: Sequence[Subject], evaluation: EvaluationSettings) -> list[Audit]:
        """Probe models of the sweep for what they still know; what was audited in the same way before is
        read.

        Args:
            members: Models of trials; the original and the retrained one go along.
            evaluation: Which probes are made, and how.

        Returns:
            Audits of the original, the retrained model, and the members.

        Raises:
            UserError: The cluster does not allow it, or the lanes were lost on the way.
        """
        with self.folder.opened(self.sweep, self.file), library_logs(self.folder.driver_log):
            plan = plan_baselines(self.sweep, self.folder.models)
            study = self._open_study()
            sweep_state = self._sweep_state(study)
            retrained = plan.retrained.measurement if plan.retrained else None
            beside = {"original": plan.original, "retrained": plan.retrained}
            subjects = [Subject(name, model.folder) for name, model in beside.items() if model is not None]
            subjects += members
            audits = self._run_audits(
                plan, subjects, plan_audits(subjects, self.sweep, evaluation, retrained, self.folder)
            )
            self.observer.stage("writing the report")
            publisher = Publisher(
                self.sweep,
                self.folder,
                study,
                sweep_state,
                self.tracking_uri,
                plan.data_digest,
                self.observer.say,
            )
            publisher.sweep_ended(complete=_complete(study, sweep_state))
            return audits

    def audit_folder(self, subject: Subject, evaluation: EvaluationSettings) -> list[Audit]:
        """Probe one model, beside any study: `folder` is a folder of its own.

        Raises:
            UserError: The data or the model cannot be read, the cluster does not allow it, or the lane was
                lost on the way.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.folder.locked(), library_logs(self.folder.driver_log):
            return self._run_audits(
                None, [subject], plan_audits([subject], self.sweep, evaluation, None, self.folder)
            )

    def _run_audits(
        self, plan: Plan | None, subjects: Sequence[Subject], jobs: Sequence[AuditJob]
    ) -> list[Audit]:
        missing = sum(not Path(job.output).is_file() for job in jobs)
        if not missing:
            return run_audits(subjects, jobs, None, self.folder, self.observer.say, self.observer.stage)
        self.observer.stage("starting Ray")
        with (
            ray_session(),
            LanePool(
                min(self._lanes(), missing), self.sweep.resources, self.folder.tune, missing, self.worker
            ) as pool,
        ):
            if plan is not None:
                ensure_baselines(plan, pool, self.folder, self.observer.stage)
            with self._watching(pool):
                return run_audits(subjects, jobs, pool, self.folder, self.observer.say, self.observer.stage)

    def reproduce(
        self, record: TrialRecord, weights: Path | None = None, kept_rung: int | None = None
    ) -> Outcome:
        """Run one trial again, beside the study, which may be another sweep's: `folder` is a scratch folder.

        Args:
            record: The trial, as the study or MLflow holds it.
            weights: Folder for the weights of the rungs that are kept.
            kept_rung: With `weights`: see `reproduce_trial`.

        Returns:
            What it gave.

        Raises:
            UserError: Data, models or the cluster do not allow it, or the lane was lost on the way.
        """
        with library_logs(self.folder.driver_log):
            plan = plan_baselines(self.sweep, self.folder.models)
            self.observer.stage("starting Ray")
            with ray_session():
                self._lanes()  # refuses a cluster without room for one
                with LanePool(1, self.sweep.resources, self.folder.tune, 1, self.worker) as pool:
                    ensure_baselines(plan, pool, self.folder, self.observer.stage)
                    with self._watching(pool):
                        return reproduce_trial(
                            record, self.sweep, plan, pool, weights, kept_rung, self.observer.stage
                        )

    def _sweep_state(self, study: Study) -> SweepState:
        sweep_state = SweepState(
            criteria_of(self.sweep), self.sweep.resources.workers_per_trial, study.records()
        )
        self.observer.sweep_opened(sweep_state)
        return sweep_state

    def _lanes(self) -> int:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return require_lanes(nodes, self.sweep.resources, self.file).lanes

    def _run_trials(
        self,
        plan: Plan,
        study: Study,
        recorder: TrialRecorder,
        on_samples: Callable[[Iterable[int]], Future[None]],
    ) -> None:
        sweep, observer = self.sweep, self.observer
        observer.stage("starting Ray")
        with ray_session():
            lanes = min(self._lanes(), study.remaining())
            observer.lanes_counted(lanes)
            observer.stage(
                f"starting {lanes} lane{'s' * (lanes > 1)} of {sweep.resources.workers_per_trial} ZeRO-3"
                " workers"
            )
            measured_s = sweep.tracking.system_metrics_s
            with LanePool(
                lanes, sweep.resources, self.folder.tune, study.remaining(), self.worker, measured_s
            ) as pool:
                ensure_baselines(plan, pool, self.folder, observer.stage)
                observer.stage(f"running {study.remaining()} trials")
                collected = (
                    collect_system_metrics(pool.job_queue, self.folder, on_samples)
                    if measured_s
                    else nullcontext()
                )
                with self._watching(pool), collected:
                    self._tune(pool, study, plan, recorder, lanes)
            if recorder.lost is not None:
                raise UserError(
                    f"the sweep stopped early: {recorder.lost}",
                    file=str(self.folder.driver_log),
                    remedy="mend the cause and run the same command again: it goes on where it was",
                )

    @contextmanager
    def _watching(self, pool: LanePool) -> Iterator[None]:
        """Show what the lanes are doing meanwhile."""
        self.observer.lanes_watched(lambda: ray.get(pool.job_queue.snapshot.remote()))
        try:
            yield
        finally:
            self.observer.lanes_watched(None)

    def _tune(self, pool: LanePool, study: Study, plan: Plan, recorder: TrialRecorder, lanes: int) -> None:
        searcher = StudySearcher(
            study,
            partial(self._job_of, plan),
            lambda: recorder.lost is not None or recorder.stop_criterion.reason() is not None,
        )
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(TuneTrial, job_queue=pool.job_queue), TUNE_TRIAL_RESOURCES
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=RungScheduler(recorder, pool.job_queue),
                num_samples=study.remaining(),
                max_concurrent_trials=lanes,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{len(recorder.sweep_state.records):05d}-{os.getpid()}",
                storage_path=str(self.folder.tune),
                verbose=0,
            ),
        )
        tuner.fit()

    def _job_of(self, plan: Plan, asked: ProposedTrial) -> dict[str, Any]:
        job = TrialJob(
            trial_id=asked.trial_id,
            model=self.sweep.model,
            data=self.sweep.data,
            evaluation=self.sweep.evaluation,
            trial=apply(self.sweep.trial, asked.params),
            folder=plan.original.folder,
            original=str(plan.original.measurement),
            retrained=str(plan.retrained.measurement) if plan.retrained else None,
            weights=str(self.folder.weights(asked.trial_id)),
            checkpoint=str(self.folder.checkpoint(asked.trial_id)),
            checkpoint_steps=self.sweep.resources.checkpoint_steps,
        )
        return {"job": job.model_dump(mode="json")}


def _complete(study: Study, sweep_state: SweepState) -> bool:
    """Whether all trials of the sweep have ended."""
    return not sweep_state.running and (study.exhausted or not study.remaining())


def _log_failure(done: "Future[None]") -> None:
    # The end of the sweep sends everything once more, and raises what is still wrong.
    if (error := done.exception()) is not None:
        logger.error("tracking failed", exc_info=error)
