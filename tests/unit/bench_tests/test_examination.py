import json
import os
import shutil
import time

import pytest
from mlflow import MlflowClient

from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.sweep_state import SweepState
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.sweep.publisher import Publisher
from orchestrator.tracking.tracking_store import default_tracking_uri
from tests.chaos.cheap_runner import STARTS
from tests.chaos.examination import Findings, ended_trials, examine
from tests.support.mlflow_store import new_store
from tests.support.sweeps.sweep_on_disk import benchmark_of, small_sweep, store


def publish(root, uri, name):
    """A sweep that has ended, with nothing wrong, in the study and in MLflow. Returns: its folder."""
    folder, settings, study = store(root, small_sweep(name=name))
    study.stop(5, "rank 5 of 5")
    sweep_state = SweepState(criteria_of(settings), settings.resources.workers_per_trial, study.records())
    Publisher(settings, folder, study, sweep_state, uri, benchmark_of(settings), pytest.fail).trials_changed(
        sweep_state.records
    )
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """One such sweep and MLflow's store of it, for tests to copy or to look at."""
    uri = default_tracking_uri(new_store(tmp_path_factory))
    return publish(tmp_path_factory.mktemp("published"), uri, "small"), uri


@pytest.fixture
def sweep(published, tmp_path):
    """A copy of its files, which a test may change, and the store, which it may not."""
    folder, uri = published
    shutil.copytree(folder.root, tmp_path, dirs_exist_ok=True)
    return SweepFolder(tmp_path, folder.name), uri


def found(sweep, before=None, expect=None):
    folder, uri = sweep
    return examine(folder.root, folder.name, before or {}, uri, expect)


def child(uri, name, trial):
    client = MlflowClient(uri)
    runs = client.search_runs(
        [client.get_experiment_by_name("lethe").experiment_id],
        f"tags.`lethe.trial` = '{trial}' AND tags.`lethe.sweep` = '{name}'",
    )
    return client, runs[0]


def test_nothing_is_found_where_nothing_is_wrong(sweep):
    folder, _ = sweep
    assert found(sweep, ended_trials(folder.root, folder.name)) == Findings()


def test_trial_that_is_gone_is_lost_and_one_that_ended_otherwise_ran_twice(sweep):
    folder, _ = sweep
    before = dict(ended_trials(folder.root, folder.name))
    status, when, rungs = before["t0001"]
    findings = found(sweep, before | {"t0099": before["t0000"], "t0001": (status, when - 1.0, rungs)})
    assert len(findings.lost) == 1 and "t0099" in findings.lost[0]
    assert len(findings.repeated) == 1 and "t0001" in findings.repeated[0]


def test_trial_that_a_lane_started_after_its_end_is_found_by_the_notes_of_starts(sweep):
    folder, _ = sweep
    (folder.path / STARTS).write_text(f"t0000 1.0\nt0001 {time.time() + 10}\n")
    (repeated,) = found(sweep).repeated
    assert "t0001 was started again" in repeated


def test_weights_that_are_missing_or_half_written_are_found(sweep):
    folder, _ = sweep
    shutil.rmtree(folder.weights("t0001") / "rung1")
    (folder.weights("t0002") / "rung1.partial").mkdir()
    missing, left_over = found(sweep).disagreeing
    assert "t0001@1" in missing and "rung1.partial" in left_over


def test_what_mlflow_says_otherwise_or_twice_is_found(published, tmp_path):
    _, uri = published
    folder = publish(tmp_path, uri, "told_otherwise")
    client, run = child(uri, folder.name, "t0000")
    client.set_tag(run.info.run_id, "status", "failed")
    client.log_metric(run.info.run_id, "test/utility", 0.123, step=0)
    client, run = child(uri, folder.name, "t0001")
    client.create_run(
        run.info.experiment_id,
        tags={key: value for key, value in run.data.tags.items() if not key.startswith("pareto")},
    )
    text = "\n".join(found((folder, uri)).disagreeing)
    assert "MLflow has 7 runs of 6 trials" in text
    assert "MLflow says failed, FINISHED of t0000: finished" in text
    assert "MLflow's test/utility of t0000" in text


def test_what_tune_says_otherwise_is_found(sweep):
    folder, _ = sweep
    state = folder.tune / "tune-00000-1" / "experiment_state-1.json"
    state.parent.mkdir(parents=True)

    def write(number, status, outcome):
        last = {"events": [], "outcomes": [{"status": outcome}]}
        trial = [
            json.dumps({"status": status, "config": {"number": number}}),
            json.dumps({"last_result": last}),
        ]
        state.write_text(json.dumps({"trial_data": [trial]}))

    write(0, "TERMINATED", "finished")
    assert found(sweep).disagreeing == []
    write(0, "TERMINATED", "failed")
    assert "of t0000: finished" in found(sweep).disagreeing[0]
    write(0, "ERROR", "finished")
    assert "Tune has an error in t0000" in found(sweep).disagreeing[0]


def test_truncated_state_of_tune_is_a_finding_unless_a_later_start_wrote_a_complete_one(sweep):
    folder, _ = sweep
    truncated, complete = (
        folder.tune / f"tune-0000{number}-1" / "experiment_state-1.json" for number in (1, 2)
    )
    for state in (truncated, complete):
        state.parent.mkdir(parents=True)
    truncated.write_text('{"trial_data": [["')
    assert found(sweep).disagreeing == ["Tune's newest state is truncated"]
    complete.write_text(json.dumps({"trial_data": []}))
    os.utime(truncated, ns=(1, 1))
    assert found(sweep).disagreeing == []


def test_measurements_that_are_not_those_of_the_settings_are_found(sweep):
    def expect(trial, rung, part):
        return {f"{part}/forget_true_mass": 0.5, f"{part}/utility": 0.7}

    wrong = found(sweep, expect=expect).disagreeing
    assert {text.split()[0] for text in wrong} == {"t0000", "t0002", "t0004", "t0005"}
