"""The session of a command that runs jobs: the sweep, its files, its data and its lanes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import ray

from cluster.capacity.lane_capacity import require_lanes
from orchestrator.lanes.job_batch import BatchObserver, JobBatch, JobTask, Lanes
from orchestrator.lanes.lane_pool import LanePool
from orchestrator.lanes.library_logs import library_logs
from orchestrator.lanes.ray_session import ray_session
from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.study import Study
from orchestrator.search.sweep_state import SweepState
from orchestrator.search.warm_start import warm_trials
from orchestrator.storage.baselines import Plan, plan_baselines
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.storage.trial_records import BASELINES
from orchestrator.sweep.publisher import Publisher
from orchestrator.sweep.trial_recorder import Observer
from orchestrator.tracking.tracked_sweep import read_tracked_trials
from orchestrator.tracking.tracking_store import EXPERIMENT
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.benchmarks.registry import load_benchmark
from trainables.data.examples import Benchmark
from trainables.durable_files import write_json
from trainables.jobs import EvaluateJob, PrepareJob


@dataclass(frozen=True)
class OpenedSweep:
    """A sweep whose lock this process holds."""

    study: Study
    state: SweepState
    plan: Plan
    """The sweep's baselines, and the jobs for those that are missing."""
    resumed: bool
    """Whether an earlier start has left trials."""

    @property
    def complete(self) -> bool:
        """Whether all trials of the sweep have ended."""
        return not self.state.running and (self.study.exhausted or not self.study.remaining())


@dataclass(frozen=True)
class Session:
    """Everything that a command needs to run jobs for a sweep.

    Attributes:
        sweep: Settings with objectives filled in.
        file: The sweep file, as messages name it.
        folder: Folder of the sweep.
        tracking_uri: MLflow's server or database.
        observer: Shows people what happens.
        worker: Function that the lanes' workers run: see `LanePool`.
        loaded: The sweep's data if it was loaded before the session began.
    """

    sweep: SweepSettings
    file: str
    folder: SweepFolder
    tracking_uri: str
    observer: Observer
    worker: Callable[[dict[str, Any]], None] | None = None
    loaded: Benchmark | None = None

    @cached_property
    def benchmark(self) -> Benchmark:
        """The sweep's data, loaded once.

        Raises:
            UserError: The data cannot be read.
        """
        if self.loaded is not None:
            return self.loaded
        # The error names the sweep file, since the user changes the data's settings there.
        try:
            return load_benchmark(self.sweep.data, redact=self.sweep.redact)
        except UserError as error:
            raise error.in_file(self.file) from error

    def plan(self) -> Plan:
        """Return the sweep's baselines, and the jobs for those that are missing."""
        return plan_baselines(self.sweep, self.folder.models, self.benchmark.digest)

    @contextmanager
    def opened(self) -> Iterator[OpenedSweep]:
        """Hold the sweep's lock during a block, with its study open for this driver.

        Raises:
            UserError: The folder holds another sweep, is locked or not writable, or the data cannot be read.
        """
        with self.folder.opened(self.sweep, self.file) as resumed, library_logs(self.folder.driver_log):
            plan = self.plan()
            study = self._open_study()
            workers = self.sweep.resources.workers_per_trial
            state = SweepState(criteria_of(self.sweep), workers, study.records())
            self.observer.sweep_opened(state)
            yield OpenedSweep(study, state, plan, resumed)

    @contextmanager
    def lanes(self, jobs: int, *, most: int | None = None, plan: Plan | None = None) -> Iterator[LanePool]:
        """Start Ray and as many lanes as the cluster has room for and the jobs need, during a block.

        Args:
            jobs: Number of jobs to expect, without those of the baselines.
            most: Largest number of lanes; `jobs` when None.
            plan: Baselines to prepare and measure before the block runs.

        Raises:
            UserError: No lane fits into the cluster, or a baseline cannot be prepared or measured.
        """
        self.observer.stage("starting Ray")
        resources = self.sweep.resources
        with ray_session():
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            room = require_lanes(nodes, resources, self.file).lanes
            count = min(room, jobs if most is None else most)
            self.observer.lanes_counted(count)
            self.observer.stage(
                f"starting {count} lane{'s' * (count > 1)} of {resources.workers_per_trial} ZeRO-3 workers"
            )
            measured_s = self.sweep.tracking.system_metrics_s
            with LanePool(count, resources, self.folder.tune, jobs, self.worker, measured_s) as pool:
                if plan is not None:
                    ensure_baselines(plan, pool, self.folder, self.observer)
                # Set after the baselines, whose batches show their own progress.
                self.observer.lanes_watched(pool.snapshot)
                try:
                    yield pool
                finally:
                    self.observer.lanes_watched(None)

    def with_one_worker(self) -> "Session":
        """Return the same session with one worker per lane, for jobs that hold a model in one process."""
        resources = self.sweep.resources.model_copy(update={"workers_per_trial": 1})
        return replace(self, sweep=self.sweep.model_copy(update={"resources": resources}))

    def publisher(self, opened: OpenedSweep) -> Publisher:
        """Return the publisher of the opened sweep, not connected yet."""
        return Publisher(
            self.sweep,
            self.folder,
            opened.study,
            opened.state,
            self.tracking_uri,
            self.benchmark,
            self.observer.say,
        )

    def publish(self, opened: OpenedSweep) -> None:
        """Write the report, and send everything that MLflow lacks."""
        self.observer.stage("writing the report")
        self.publisher(opened).sweep_ended(complete=opened.complete)

    def _open_study(self) -> Study:
        read_tracked = partial(read_tracked_trials, self.tracking_uri, EXPERIMENT)
        warm = warm_trials(self.folder, self.sweep, read_tracked)
        if warm:
            sources = ", ".join(self.sweep.search.warm_start)
            self.observer.say(f"warm start: the sampler learns from {len(warm)} trials of {sources}")
        return Study.open(self.folder.journal, self.sweep, warm)


@dataclass(frozen=True)
class BaselineTask(JobTask):
    """A baseline that is prepared or measured; its lane writes the result."""

    verb: str
    """`preparing` or `measuring`."""
    baseline_job: PrepareJob | EvaluateJob

    @property
    def name(self) -> str:
        """Name of the job for people, such as `measuring the original model`."""
        return f"{self.verb} the {self.baseline_job.name} model"

    def job(self) -> PrepareJob | EvaluateJob:
        """Return the plan's job."""
        return self.baseline_job

    def keep(self, result: Mapping[str, Any]) -> None:
        """Do nothing: the lane has written the result."""

    def fail(self, reason: str) -> None:
        """End the batch, since a sweep cannot run without its baselines.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.name} failed: {reason}")


def ensure_baselines(plan: Plan, lanes: Lanes, folder: SweepFolder, observer: BatchObserver) -> None:
    """Prepare and measure what the plan still needs, and write where the baselines lie.

    Raises:
        UserError: A model cannot be loaded, prepared or measured.
        LostError: No lane was left.
    """
    batch = JobBatch("models", folder.driver_log)
    batch.run([BaselineTask("preparing", job) for job in plan.prepare], lanes, observer)
    # The retrained model is measured first and alone: the others are compared with its measurement.
    first, others = plan.measure[:1], plan.measure[1:]
    batch.run([BaselineTask("measuring", job) for job in first], lanes, observer)
    batch.run([BaselineTask("measuring", job) for job in others], lanes, observer)
    places = {}
    for name in BASELINES:
        baseline = getattr(plan, name)
        if baseline is not None:
            places[name] = {"folder": baseline.folder, "measurement": str(baseline.measurement)}
    write_json(folder.baselines, places)
