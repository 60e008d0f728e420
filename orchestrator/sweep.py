"""Runs a sweep from settings to a front: lanes up, baselines, trials, report. Starting it again goes on where it was."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from cluster.capacity import require_lanes
from orchestrator.baselines import Plan, ensure_baselines, plan_baselines
from orchestrator.lane_pool import LanePool
from orchestrator.lease import Lease
from orchestrator.live_progress import LiveProgress
from orchestrator.publishing import Publisher
from orchestrator.ray_session import ray_session
from orchestrator.recorder import Recorder
from orchestrator.records import Asked, TrialRecord
from orchestrator.search import Study
from orchestrator.sweep_folder import SweepFolder
from orchestrator.tune_searcher import StudySearcher
from search_spaces.space import apply
from search_spaces.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.jobs import TrialJob

logger = logging.getLogger(__name__)

# A lease waits and holds nothing. Zero CPUs alone are refused by Tune, and a fraction of one can starve the lanes.
LEASE_RESOURCES = {"CPU": 0, "memory": 1e6}


@dataclass(frozen=True)
class SweepRun:
    """One start of a sweep."""

    sweep: SweepSettings
    file: str
    folder: SweepFolder
    tracking_uri: str
    progress: LiveProgress

    def run(self) -> list[TrialRecord]:
        """Run what remains.

        Returns:
            All trials of the sweep.

        Raises:
            UserError: Settings, data, models or the cluster do not allow it, or the lanes were lost on the way.
        """
        with self.folder.opened(self.sweep, self.file) as resumed, _library_logs(self.folder.driver_log):
            plan = plan_baselines(self.sweep, self.folder.models)
            study = Study.open(self.folder.journal, self.sweep)
            records = study.records()
            if resumed:
                ended = sum(record.status != "running" for record in records)
                running = len(records) - ended
                total = self.sweep.search.trials
                self.progress.say(f"resuming {self.sweep.name}: {ended} of {total} trials are done, {running} were running and start again")
                self.progress.trials_known(records)
            publisher = Publisher(self.sweep, self.folder, study, self.tracking_uri, plan.data_digest, self.progress.say)
            with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking") as tracking:
                try:
                    if study.remaining():
                        self._run_trials(plan, study, lambda: tracking.submit(publisher.trials_changed).add_done_callback(_log_failure))
                finally:
                    self.progress.stage("writing the report")
                    tracking.submit(publisher.sweep_ended, complete=study.exhausted or not study.remaining()).result()
            return study.records()

    def prepare(self) -> Plan:
        """Prepare and measure the models that the sweep stands on, and start no trial.

        Returns:
            Where they lie.

        Raises:
            UserError: Settings, data, models or the cluster do not allow it.
        """
        with self.folder.opened(self.sweep, self.file), _library_logs(self.folder.driver_log):
            plan = plan_baselines(self.sweep, self.folder.models)
            with ray_session():
                lanes = min(self._lanes(), max(1, len(plan.prepare)))
                with LanePool(lanes, self.sweep.resources, self.folder.tune) as pool:
                    ensure_baselines(plan, pool, self.folder, self.progress.stage)
            return plan

    def _lanes(self) -> int:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return require_lanes(nodes, self.sweep.resources, self.file).lanes

    def _run_trials(self, plan: Plan, study: Study, on_change: Callable[[], Any]) -> None:
        sweep, progress = self.sweep, self.progress
        progress.stage("starting Ray")
        with ray_session():
            progress.lanes = lanes = min(self._lanes(), study.remaining())
            progress.stage(f"starting {lanes} lane{'s' * (lanes > 1)} of {sweep.resources.workers_per_trial} ZeRO-3 workers")
            with LanePool(lanes, sweep.resources, self.folder.tune) as pool:
                ensure_baselines(plan, pool, self.folder, progress.stage)
                progress.stage(f"running {study.remaining()} trials")
                progress.snapshot = lambda: ray.get(pool.mailbox.snapshot.remote())
                recorder = Recorder(sweep, study, self.folder, progress, on_change)
                try:
                    self._tune(pool, study, plan, recorder, lanes)
                finally:
                    progress.snapshot = None
            if recorder.lost is not None:
                raise UserError(
                    f"the sweep stopped early: {recorder.lost}",
                    file=str(self.folder.driver_log),
                    remedy="mend the cause and run the same command again: it goes on where it was",
                )

    def _tune(self, pool: LanePool, study: Study, plan: Plan, recorder: Recorder, lanes: int) -> None:
        searcher = StudySearcher(study, partial(self._job_of, plan))
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(Lease, mailbox=pool.mailbox), LEASE_RESOURCES),
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=study.remaining(), max_concurrent_trials=lanes, reuse_actors=True),
            run_config=tune.RunConfig(
                name=f"tune-{len(study.records()):05d}-{os.getpid()}", storage_path=str(self.folder.tune), callbacks=[recorder], verbose=0
            ),
        )
        tuner.fit()

    def _job_of(self, plan: Plan, asked: Asked) -> dict[str, Any]:
        job = TrialJob(
            trial_id=asked.trial_id,
            model=self.sweep.model,
            data=self.sweep.data,
            trial=apply(self.sweep.trial, asked.params),
            folder=plan.original.folder,
            original=str(plan.original.measurement),
            retrained=str(plan.retrained.measurement) if plan.retrained else None,
            weights=str(self.folder.weights(asked.trial_id)),
        )
        return {"job": job.model_dump(mode="json")}


def _log_failure(done: "Future[None]") -> None:
    # The end of the sweep sends everything once more, and raises what is still wrong.
    if (error := done.exception()) is not None:
        logger.error("tracking failed", exc_info=error)


@contextmanager
def _library_logs(path: Path) -> Iterator[None]:
    """Send what libraries log to a file: the screen is for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Imported later, on the tracking thread: it would put its own handler on the screen.
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    root = logging.getLogger()
    root.addHandler(handler)
    quiet = [logging.getLogger(name) for name in ("ray", "ray.train", "ray.tune", "ray.air", "mlflow", "alembic")]
    before = [(log, log.handlers[:], log.propagate) for log in quiet]
    for log in quiet:
        log.handlers, log.propagate = [], True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, handlers, propagate in before:
            log.handlers, log.propagate = handlers, propagate
        root.removeHandler(handler)
        handler.close()
