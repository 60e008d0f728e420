"""Trackers and the contents that tests send with them, and reading runs back from MLflow."""

from pathlib import Path

from orchestrator.storage.trial_records import TrialRecord
from orchestrator.tracking.tracker import SweepInfo, SweepSummary, Tracker
from tests.support.sweeps.finished_sweep import RUNGS, rungs, sweep, validation_only


def tracker(uri, artifacts, identity):
    return Tracker(uri, "lethe", "synthetic", artifacts, identity)


def info(datasets=(), **more):
    return SweepInfo(sweep(**more), "digest", {"git.commit": "abc"}, datasets)


def trial(number=3, ended=RUNGS, **more):
    """A finished trial; with fewer rungs than all, one that still runs."""
    whole = rungs(0.7, "token")
    path = [*map(validation_only, whole[:-1]), whole[-1]][:ended]
    done = {"status": "finished", "duration_s": 9.0, "finished_at": 1009.0} if ended == RUNGS else {}
    params = {"forget.method": "npo", "beliefs": "token", "token_belief.top_k": 7}
    fields = {"status": "running", "metrics": path[-1] if path else {}, "started_at": 1000.0, **done, **more}
    return TrialRecord(
        **{"trial_id": f"t{number:04d}", "number": number, "params": params, "rungs": path, **fields}
    )


def send(sender, record, front=(), worker_seconds=18.0):
    return sender.sync_trial(record, front, "npo", "token", worker_seconds)


def summary(**more):
    return SweepSummary(**{"counts": {}, "front": {}, "leaderboard": "", **more})


def children(client, parent):
    experiment = client.get_experiment_by_name("lethe").experiment_id
    return client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")


def steps(client, run_id, key):
    return sorted(metric.step for metric in client.get_metric_history(run_id, key))


def text(client, run_id, name):
    return Path(client.download_artifacts(run_id, name)).read_text()
