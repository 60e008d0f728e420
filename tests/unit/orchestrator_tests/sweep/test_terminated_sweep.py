"""The publisher sends little when the driver has no time left, and samples of workers with their trials."""

import pytest
from mlflow import MlflowClient

from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.system_metrics_file import append_system_metrics
from orchestrator.sweep import publisher as publishing
from orchestrator.sweep.publisher import Publisher
from orchestrator.tracking.tracking_store import EXPERIMENT, default_tracking_uri
from tests.support.mlflow_store import new_store
from tests.support.sweeps.sweep_on_disk import benchmark_of, store

CPU = "system/cpu_utilization_percentage"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return default_tracking_uri(new_store(tmp_path_factory))


@pytest.fixture
def stored(tmp_path):
    return store(tmp_path)


def publisher(stored, uri):
    folder, sweep, study = stored
    sweep_state = SweepState(criteria_of(sweep), sweep.resources.workers_per_trial, study.records())
    return Publisher(sweep, folder, study, sweep_state, uri, benchmark_of(sweep), lambda line: None)


def runs(stored, uri):
    client = MlflowClient(tracking_uri=uri)
    identity = (stored[0].path / "sweep_id").read_text()
    found = client.search_runs(
        [client.get_experiment_by_name(EXPERIMENT).experiment_id], f"tags.`lethe.sweep_id` = '{identity}'"
    )
    return {run.info.run_name: run for run in found}


def test_terminated_sweep_is_killed_in_mlflow_and_its_trials_stay_as_they_were(stored, uri):
    driver = publisher(stored, uri)
    driver.trials_changed([3])
    before = runs(stored, uri)["t0003"].info.status
    driver.sweep_terminated()
    after = runs(stored, uri)
    assert (after["small"].info.status, after["t0003"].info.status) == ("KILLED", before)
    assert not (stored[0].path / "report.html").exists()


def test_terminated_sweep_that_mlflow_does_not_know_yet_makes_no_connection(stored, uri, monkeypatch):
    driver, connections = publisher(stored, uri), []
    monkeypatch.setattr(driver.tracker, "_connect", lambda: connections.append("takes seconds"))
    driver.sweep_terminated()
    assert connections == []


def test_samples_of_workers_are_sent_with_their_trial_and_leave_the_study_unchanged(stored, uri):
    folder, _, study = stored
    driver = publisher(stored, uri)
    driver.trials_changed([3])
    before = folder.journal.read_bytes(), study.record(3)
    append_system_metrics(
        folder.trial_system_metrics("t0003"), [{"at": 1001.0, "values": {"cpu_utilization_percentage": 80.0}}]
    )
    driver.trials_changed([3])
    assert runs(stored, uri)["t0003"].data.metrics[CPU] == 80.0
    assert (folder.journal.read_bytes(), study.record(3)) == before


def test_samples_that_an_earlier_driver_left_are_sent_at_the_end(stored, uri, monkeypatch):
    folder = stored[0]
    append_system_metrics(
        folder.trial_system_metrics("t0003"), [{"at": 1001.0, "values": {"cpu_utilization_percentage": 70.0}}]
    )
    monkeypatch.setattr(publishing, "write_report", lambda folder, view: ())
    publisher(stored, uri).sweep_ended(complete=True)
    assert runs(stored, uri)["t0003"].data.metrics[CPU] == 70.0
