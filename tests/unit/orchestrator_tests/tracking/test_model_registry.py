import pytest
from mlflow import MlflowClient

from orchestrator.storage.trial_records import TrialRecord
from orchestrator.tracking.model_registry import RegistryEntry, register_model
from orchestrator.tracking.tracked_sweep import read_tracked_sweep
from orchestrator.tracking.tracker import SweepInfo, Tracker
from search_spaces.user_errors import UserError
from tests.support.mlflow_store import new_store
from tests.support.sweeps.finished_sweep import sweep
from tests.support.sweeps.sweep_on_disk import measured


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """A store with two sweeps of one name, the older one with a trial."""
    folder = new_store(tmp_path_factory)
    uri = f"sqlite:///{folder}/mlflow.db"
    for identity in ("older", "newer"):
        tracker = Tracker(uri, "lethe", "taken", folder / "artifacts", identity)
        tracker.sync_parent(
            SweepInfo(
                sweep(name="taken", description=identity),
                f"digest of {identity}",
                {"version.torch": "2.13.0"},
            )
        )
        if identity == "older":
            rungs = [measured(0.4, 0.6)]
            tracker.sync_trial(
                TrialRecord("t0001", 1, "finished", {}, rungs[-1], rungs), (1,), "npo", "none", 8.0
            )
    return uri


def entry(**more):
    fields = {
        "name": "forgetful",
        "sweep_name": "taken",
        "sweep_identity": "older",
        "trial_id": "t0001",
        "rung": 1,
        "tags": {"test.utility": "0.6"},
    }
    return RegistryEntry(**{**fields, **more})


def test_sweep_is_read_back_with_its_origins_the_newest_unless_named(uri):
    assert read_tracked_sweep(uri, "lethe", "taken").settings == sweep(name="taken", description="newer")
    older = read_tracked_sweep(uri, "lethe", "taken", "older")
    assert older.settings.description == "older"
    assert (older.tags["lethe.data_digest"], older.tags["version.torch"]) == ("digest of older", "2.13.0")


def test_each_export_is_a_version_on_its_trials_run(uri, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert [register_model(uri, "lethe", entry(), tmp_path) for _ in range(2)] == ["1", "2"]
    client = MlflowClient(uri)
    version = client.get_model_version("forgetful", "2")
    assert version.tags == {
        "lethe.sweep": "taken",
        "lethe.trial": "t0001",
        "lethe.rung": "1",
        "test.utility": "0.6",
    }
    assert client.get_run(version.run_id).data.tags["lethe.trial"] == "t0001"
    assert [file.path for file in client.list_artifacts(version.run_id, "model-rung1")] == [
        "model-rung1/model.safetensors"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "a/b"}, "--register: not a name"),
        ({"trial_id": "t0009"}, "--register: MLflow has no run of this trial.*`lethe run`"),
        ({"sweep_identity": "another"}, "SWEEP: MLflow has no sweep of this name"),
    ],
)
def test_what_cannot_be_registered_is_refused(uri, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        register_model(uri, "lethe", entry(**changes), tmp_path)


def test_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(UserError, match="--tracking-uri: there is no such MLflow database"):
        read_tracked_sweep(f"sqlite:///{tmp_path}/none.db", "lethe", "taken")
    assert list(tmp_path.iterdir()) == []


def test_server_that_is_away_is_named_without_its_password():
    with pytest.raises(UserError, match="MLflow cannot be read") as caught:
        read_tracked_sweep("http://me:secret@127.0.0.1:9", "lethe", "taken")
    assert "secret" not in str(caught.value)
