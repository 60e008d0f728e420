"""Runs the trials of a sweep: lanes, baselines, trials, report. Another start continues where it stopped."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ray import tune

from orchestrator.lanes.lane_pool import LanePool
from orchestrator.lanes.sigterm import terminating
from orchestrator.lanes.system_metrics_collector import collect_system_metrics
from orchestrator.search.budget import StopCriterion, wall_s_of_earlier_starts
from orchestrator.search.early_stopping import RungDecider
from orchestrator.storage.baselines import trial_job
from orchestrator.storage.cleaning import drop_unfinished
from orchestrator.storage.trial_records import ProposedTrial, TrialRecord
from orchestrator.sweep.ray_tune import RungScheduler, StudySearcher, TuneTrial
from orchestrator.sweep.session import OpenedSweep, Session
from orchestrator.sweep.trial_recorder import TrialRecorder
from search_spaces.user_errors import UserError

logger = logging.getLogger(__name__)

TUNE_TRIAL_RESOURCES = {"CPU": 0, "memory": 1e6, "node:__internal_head__": 1e-4}
"""Resources of the actor that waits for a trial, by Ray's names; the lane holds those of the trial itself.

Tune refuses zero CPUs alone, hence the memory in bytes, and a fraction of a CPU could take the room of a
lane. The actor stays on the head node, because a trial fails when its actor's node goes away.
"""

OnChange = Callable[[Iterable[int]], Future[None]]
"""Sends what is new of trials, given their numbers; returns at once. The future ends when it is sent."""


def run_sweep(session: Session) -> list[TrialRecord]:
    """Run the trials that remain.

    Returns:
        All trials of the sweep.

    Raises:
        UserError: Settings, data, models or the cluster do not allow it, or the lanes were lost on the way.
    """
    with session.opened() as opened:
        folder, study, state = session.folder, opened.study, opened.state
        # A request of `lethe stop` is for the start during which it was made.
        folder.stop_request.unlink(missing_ok=True)
        earlier_wall_s = wall_s_of_earlier_starts(state.records.values())
        stop_criterion = StopCriterion(session.sweep.budget, state, folder.stop_request, earlier_wall_s)
        if opened.resumed:
            session.observer.say(
                f"resuming {session.sweep.name}: {state.ended} of {session.sweep.search.trials} trials are"
                f" done, {len(state.running)} were running and start again"
            )
        with _publishing(session, opened) as on_change:
            decider = RungDecider(session.sweep, state)
            recorder = TrialRecorder(
                study, state, folder, decider, stop_criterion, session.observer, on_change
            )
            recorder.tidy()
            if study.remaining() and stop_criterion.reason() is None:
                _TrialsRun(session, opened, recorder, on_change).run()
                # Done here, when no lane can write any more.
                drop_unfinished(folder, study.records())
        _say_why_it_ended(session, opened, stop_criterion)
        return study.records()


@contextmanager
def _publishing(session: Session, opened: OpenedSweep) -> Iterator[OnChange]:
    """Send changes to MLflow from a thread of its own during a block, and write the report at its end."""
    publisher = session.publisher(opened)
    # One thread, since the publisher is not thread-safe and must send changes in their order.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking") as tracking:

        def on_change(numbers: Iterable[int]) -> Future[None]:
            sending = tracking.submit(publisher.trials_changed, tuple(numbers))
            sending.add_done_callback(_log_failure)
            return sending

        try:
            yield on_change
        finally:
            if terminating():
                tracking.submit(publisher.sweep_terminated).result()
            else:
                session.observer.stage("writing the report")
                tracking.submit(publisher.sweep_ended, complete=opened.complete).result()


def _say_why_it_ended(session: Session, opened: OpenedSweep, stop_criterion: StopCriterion) -> None:
    reason, remaining = stop_criterion.reason(), opened.study.remaining()
    if reason is None or not remaining:
        return
    more = "`lethe run` goes on"
    if reason.startswith("budget."):
        more = f"lift it and run again, or `lethe extend {session.sweep.name}`"
    session.observer.say(f"the sweep ended with {remaining} trials left: {reason}. To go on: {more}.")


@dataclass(frozen=True)
class _TrialsRun:
    """Runs the trials of the study on the lanes, through Ray Tune."""

    session: Session
    opened: OpenedSweep
    recorder: TrialRecorder
    on_change: OnChange

    def run(self) -> None:
        """Run trials until none remains, or none may start.

        Raises:
            UserError: The cluster does not allow it, or the lanes were lost.
        """
        session, remaining = self.session, self.opened.study.remaining()
        with session.lanes(remaining, plan=self.opened.plan) as pool, ExitStack() as stack:
            session.observer.stage(f"running {remaining} trials")
            if session.sweep.tracking.system_metrics_s:
                stack.enter_context(collect_system_metrics(pool.job_queue, session.folder, self.on_change))
            self._tune(pool)
        if self.recorder.lost is not None:
            raise UserError(
                f"the sweep stopped early: {self.recorder.lost}",
                file=str(session.folder.driver_log),
                remedy="fix the cause and run the same command again: it continues where it stopped",
            )

    def _tune(self, pool: LanePool) -> None:
        study, recorder = self.opened.study, self.recorder
        trainable = tune.with_parameters(TuneTrial, job_queue=pool.job_queue)
        tuner = tune.Tuner(
            tune.with_resources(trainable, TUNE_TRIAL_RESOURCES),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(study, self._job_of, self._is_ending),
                scheduler=RungScheduler(recorder, pool.job_queue),
                num_samples=study.remaining(),
                # A further trial would only wait for a lane, and be proposed from fewer results.
                max_concurrent_trials=pool.lanes,
                # A new actor for each trial would take seconds.
                reuse_actors=True,
                trial_dirname_creator=_trial_folder,
            ),
            run_config=tune.RunConfig(
                # Another name for each start, since nothing is restored from Tune's files.
                name=f"tune-{len(recorder.sweep_state.records):05d}-{os.getpid()}",
                storage_path=str(self.session.folder.tune),
                verbose=0,
            ),
        )
        tuner.fit()

    def _is_ending(self) -> bool:
        return self.recorder.lost is not None or self.recorder.stop_criterion.reason() is not None

    def _job_of(self, proposed: ProposedTrial) -> dict[str, Any]:
        folder = self.session.folder
        job = trial_job(
            self.session.sweep,
            self.opened.plan,
            proposed.trial_id,
            proposed.params,
            weights=str(folder.weights(proposed.trial_id)),
            checkpoint=str(folder.checkpoint(proposed.trial_id)),
            checkpoint_steps=self.session.sweep.resources.checkpoint_steps,
        )
        return {"job": job.model_dump(mode="json")}


def _trial_folder(trial: Any) -> str:
    """Return the name of Tune's folder of a trial; Tune's default holds the whole config with its paths."""
    return f"{trial.config['trial_id']}-{trial.trial_id}"


def _log_failure(done: "Future[None]") -> None:
    # Only logged, since the end of the sweep sends everything again and raises what is still wrong.
    if (error := done.exception()) is not None:
        logger.error("tracking failed", exc_info=error)
