"""Lanes under real Ray: a job that breaks its workers does not end the lane."""

import os
import threading
from pathlib import Path

import pytest

from tests.chaos.subject import workers_below
from tests.support.local_job_queue import wait_for_outcome
from trainables.events import Failed, Finished, Lost
from trainables.jobs import EvaluateJob, PrepareJob


@pytest.fixture(scope="module")
def ray_session():
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
        )
        yield
        ray.shutdown()


def test_lane_lives_on_after_jobs_that_broke_all_or_one_of_its_workers(ray_session, prepared, tmp_path):
    from orchestrator.lanes.lane_pool import LanePool
    from search_spaces.settings.sweep_settings import ResourceSettings

    missing = tmp_path / "no_model"
    common = {
        **prepared.common,
        "model": {**prepared.common["model"], "prepare": {"steps": 2, "global_batch": 4}},
    }
    broken = EvaluateJob(
        name="broken", folder=str(missing), output=str(tmp_path / "broken.json"), **prepared.common
    )
    # Only rank 0 writes, so only rank 0 fails: the other one waits for it in a collective.
    unwritable = PrepareJob(
        name="unwritable", text="target", initial=str(prepared.target), output="/dev/null/model", **common
    )
    sound = EvaluateJob(
        name="sound", folder=str(prepared.target), output=str(tmp_path / "sound.json"), **prepared.common
    )
    with LanePool(1, ResourceSettings(workers_per_trial=2), tmp_path / "ray") as pool:
        pool.submit("broken", broken)
        pool.submit("unwritable", unwritable)
        pool.submit("sound", sound)
        for name, reason in (("broken", "no_model"), ("unwritable", "NotADirectoryError")):
            outcome, _ = wait_for_outcome(pool, name)
            assert isinstance(outcome, Failed) and reason in outcome.reason
        outcome, _ = wait_for_outcome(pool, "sound")
    assert outcome.result["metrics"] == pytest.approx(prepared.measure["result"]["metrics"])


def test_worker_that_hangs_is_killed_with_a_job_or_without_one(ray_session, prepared, tmp_path, monkeypatch):
    from orchestrator.lanes import lane_pool
    from orchestrator.lanes.lane_pool import LanePool
    from search_spaces.settings.sweep_settings import ResourceSettings
    from tests.support.processes.hanging_worker import hanging_worker

    job = EvaluateJob(
        name="still", folder=str(prepared.target), output=str(tmp_path / "hung"), **prepared.common
    )
    with LanePool(
        1,
        ResourceSettings(workers_per_trial=2, quiet_timeout_s=3),
        tmp_path / "ray",
        jobs=1,
        worker=hanging_worker,
    ) as pool:
        pool.submit("still", job)
        outcome, (again,) = wait_for_outcome(pool, "still")
        assert isinstance(outcome, Finished)
        workers_below(os.getpid())[0].suspend()
        monkeypatch.setattr(lane_pool, "CLOSE_IDLE_S", 2.0)
    assert not any(thread.is_alive() for thread in threading.enumerate() if thread.name == "lane0"), (
        "its lane did not go home"
    )
    assert "its workers hung (no sign of life for" in again.line


def test_pool_without_room_says_so_in_time_in_place_of_waiting_for_ever(ray_session, prepared, tmp_path):
    """The last one, because its lane waits for room as long as the Ray session lasts."""
    from orchestrator.lanes.lane_pool import LanePool
    from search_spaces.settings.sweep_settings import ResourceSettings

    job = PrepareJob(
        name="target",
        text="target",
        initial=str(tmp_path / "i"),
        output=str(tmp_path / "o"),
        **prepared.common,
    )
    with LanePool(1, ResourceSettings(workers_per_trial=4, start_timeout_s=2), tmp_path / "ray") as pool:
        pool.submit("starved", job)
        outcome, _ = wait_for_outcome(pool, "starved")
    assert isinstance(outcome, Lost) and "start_timeout_s" in outcome.reason
