"""Lanes under real Ray: a job that breaks its workers does not end the lane."""

import os
import threading
from pathlib import Path

import pytest

from tests.chaos.subject import workers_below
from trainables.jobs import MeasureJob, PrepareJob


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
    from search_spaces.user_errors import UserError

    missing = tmp_path / "no_model"
    common = {
        **prepared.common,
        "model": {**prepared.common["model"], "prepare": {"steps": 2, "global_batch": 4}},
    }
    broken = MeasureJob(
        name="broken", folder=str(missing), output=str(tmp_path / "broken.json"), **prepared.common
    )
    # Only rank 0 writes, so only rank 0 fails: the other one waits for it in a collective.
    unwritable = PrepareJob(
        name="unwritable", text="target", initial=str(prepared.target), output="/dev/null/model", **common
    )
    sound = MeasureJob(
        name="sound", folder=str(prepared.target), output=str(tmp_path / "sound.json"), **prepared.common
    )
    with LanePool(1, ResourceSettings(workers_per_trial=2), tmp_path / "ray") as pool:
        pool.submit("broken", broken)
        pool.submit("unwritable", unwritable)
        pool.submit("sound", sound)
        with pytest.raises(UserError, match="no_model"):
            pool.wait("broken", lambda progress: None)
        with pytest.raises(UserError, match="NotADirectoryError"):
            pool.wait("unwritable", lambda progress: None)
        outcome = pool.wait("sound", lambda progress: None)
    assert outcome["metrics"] == pytest.approx(prepared.measure["result"]["metrics"])


def test_worker_that_hangs_is_killed_with_a_job_or_without_one(ray_session, prepared, tmp_path, monkeypatch):
    import ray

    from orchestrator.lanes import lane_pool
    from orchestrator.lanes.lane_pool import LanePool
    from search_spaces.settings.sweep_settings import ResourceSettings
    from tests.support.processes.hanging_worker import hanging_worker

    job = MeasureJob(
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
        assert pool.wait("still", lambda progress: None) == {"status": "finished"}
        (again,) = ray.get(pool.job_queue.follow.remote("still", 0))[0]
        workers_below(os.getpid())[0].suspend()
        monkeypatch.setattr(lane_pool, "CLOSE_IDLE_S", 2.0)
    assert not any(thread.is_alive() for thread in threading.enumerate() if thread.name == "lane0"), (
        "its lane did not go home"
    )
    assert "its workers hung (no sign of life for" in again["line"]


def test_pool_without_room_says_so_in_time_in_place_of_waiting_for_ever(ray_session, prepared, tmp_path):
    """The last one, because its lane waits for room as long as the Ray session lasts."""
    from orchestrator.lanes.lane_pool import LanePool
    from search_spaces.settings.sweep_settings import ResourceSettings
    from search_spaces.user_errors import UserError

    job = PrepareJob(
        name="target",
        text="target",
        initial=str(tmp_path / "i"),
        output=str(tmp_path / "o"),
        **prepared.common,
    )
    with LanePool(1, ResourceSettings(workers_per_trial=4, start_timeout_s=2), tmp_path / "ray") as pool:
        pool.submit("starved", job)
        with pytest.raises(UserError, match="start_timeout_s"):
            pool.wait("starved", lambda progress: None)
