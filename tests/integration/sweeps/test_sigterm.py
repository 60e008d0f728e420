"""`lethe run` under SIGTERM, as `ray job stop`, SLURM and Kubernetes send it. Its trials are made up."""

import signal
import time

import mlflow
import psutil

from orchestrator.lanes.sigterm import LINE
from orchestrator.storage.sweep_folder import SweepFolder
from tests.support.processes.launch import MADE_UP
from tests.support.sweeps.small_sweeps import (
    SWEEP,
    child_runs,
    driver,
    finished_trials,
    load_study,
    wait_for,
    write_sweep,
)


def terminate(process, output):
    """End a driver. Returns: what it had said, by lines, and how long it took."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, output.read_text()
    return output.read_text().splitlines(), time.monotonic() - began


def is_there(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_sigterm_in_mid_sweep_ends_it_in_time_with_one_line_and_nothing_left(finished, tmp_path):
    _, storage, _ = finished
    file, output = (
        write_sweep(tmp_path, name="terminated", search={**SWEEP["search"], "trials": 400}),
        tmp_path / "said.txt",
    )
    with driver("run", str(file), storage=storage, output=output, module=MADE_UP) as process:
        wait_for(lambda: finished_trials(storage, "terminated") >= 1, 300)
        # MLflow takes seconds to be loaded and told the sweep; before that there is nobody to call it ended.
        wait_for(lambda: parent_status(storage) == "RUNNING", 60)
        started = psutil.Process(process.pid).children(recursive=True)
        assert "raylet" in {one.name() for one in started}
        said, took_s = terminate(process, output)
    assert said[-1] == LINE
    assert [line for line in said if "SIGTERM" in line or "Traceback" in line] == [LINE]
    assert took_s < 3, "`ray job stop` kills after 3 s"
    wait_for(lambda: not any(map(is_there, started)), 10)
    assert not SweepFolder(storage, "terminated").is_locked()
    trials = load_study(storage, "terminated").get_trials()
    done = sum(trial.state.is_finished() for trial in trials)
    assert 1 <= done < 400 and len(trials) - done <= 1
    assert parent_status(storage) == "KILLED"
    assert {run.info.status for run in child_runs(storage, "terminated")} <= {"FINISHED", "RUNNING"}


def parent_status(storage):
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    found = client.search_runs(
        [client.get_experiment_by_name("lethe").experiment_id], "attributes.run_name = 'terminated'"
    )
    return found[0].info.status if found else None


def test_sigterm_before_ray_is_there_ends_with_the_same_line(finished, tmp_path):
    _, storage, _ = finished
    file, output = write_sweep(tmp_path, name="early"), tmp_path / "said.txt"
    with driver("run", str(file), storage=storage, output=output, module=MADE_UP) as process:
        wait_for(lambda: output.read_text(), 60)
        said, _ = terminate(process, output)
    assert said[-1] == LINE
    assert [line for line in said if "SIGTERM" in line or "Traceback" in line] == [LINE]
