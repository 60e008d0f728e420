"""The job that `lethe submit` sends to a cluster: id, command line and upload, and the refusal of secrets."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from pathspec import PathSpec
from typer.testing import CliRunner

from cluster.job_request import EXCLUDES, JobRequest, file_in_job, job_number, next_job_id
from orchestrator import cli
from search_spaces.user_errors import UserError

PASSWORD = "planted-secret-123"


def request(**changes):
    return JobRequest(**{"name": "tiny", "file": "tiny.yaml", "working_dir": Path(), **changes})


def refusal(*arguments, **environment):
    done = CliRunner().invoke(cli.app, ["submit", *arguments], env=environment)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.stderr


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A valid sweep file in the folder where the command starts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "model: {base: scratch}\ndata: {benchmark: closed_world}\nspace: {retain.weight: {uniform: [0.5,"
        " 2.0]}}\n"
    )
    return path


def test_ids_of_a_sweep_count_up_so_that_it_can_be_submitted_again():
    assert next_job_id("tiny", []) == "lethe-tiny-1"
    assert next_job_id("tiny", ["lethe-tiny-1", "lethe-tiny-9", "lethe-tiny-10", None]) == "lethe-tiny-11"


def test_ids_of_other_sweeps_and_other_jobs_are_not_counted():
    others = [
        "raysubmit_4",
        "lethe-tiny-a-3",
        "lethe-tiny",
        "lethe-tinyx-7",
        "lethe-other-8",
        "xlethe-tiny-2",
    ]
    assert next_job_id("tiny", others) == "lethe-tiny-1"
    assert job_number("tiny", "lethe-tiny-2-5") == 0
    assert job_number("tiny-2", "lethe-tiny-2-5") == 5
    assert job_number("t.ny", "lethe-tiny-1") == 0


def test_entrypoint_survives_the_shell():
    job = request(
        file="my sweeps/a.yaml",
        overrides=("space.beliefs={choice: [none, token]}", "description=it's $HOME; `ls`"),
        storage="/shared/a b",
    )
    assert shlex.split(job.entrypoint) == [
        *("lethe", "run", "my sweeps/a.yaml", "--name", "tiny"),
        *(
            "--set",
            "space.beliefs={choice: [none, token]}",
            "--set",
            "description=it's $HOME; `ls`",
            "--storage",
            "/shared/a b",
        ),
    ]


def test_entrypoint_leaves_storage_and_mlflow_to_the_cluster_when_not_given(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mine:5000")
    monkeypatch.setenv("LETHE_STORAGE", "/mine")
    assert request().entrypoint == "lethe run tiny.yaml --name tiny"


def test_runtime_environment_installs_nothing_and_sends_no_variables():
    assert set(request().runtime_env) == {"working_dir", "excludes"}


@pytest.mark.parametrize(
    "path",
    [
        "lethe-runs/a/study.journal",
        ".git/config",
        ".venv-test/bin/python",
        "deep/venv/x",
        "a/__pycache__/b.pyc",
        ".env",
        "keys/head.pem",
    ],
)
def test_upload_leaves_out_runs_environments_and_keys(path):
    assert PathSpec.from_lines("gitwildmatch", EXCLUDES).match_file(path)


@pytest.mark.parametrize(
    "path", ["search_spaces/quickstart.yaml", "orchestrator/cli.py", "data/forget.jsonl", "environment.md"]
)
def test_upload_takes_sweeps_code_and_data(path):
    assert not PathSpec.from_lines("gitwildmatch", EXCLUDES).match_file(path)


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{PASSWORD}@mlflow:5000",
        f"https://{PASSWORD}@mlflow:5000",
        f"postgresql://mlflow:{PASSWORD}@db/mlflow",
        f"https://mlflow/?token={PASSWORD}",
    ],
)
def test_uri_with_a_password_is_refused_without_repeating_it(uri):
    with pytest.raises(
        UserError, match=r"--tracking-uri.*MLFLOW_TRACKING_PASSWORD in the cluster's environment"
    ) as refused:
        request(tracking_uri=uri)
    assert PASSWORD not in str(refused.value)
    with pytest.raises(UserError, match="--set"):
        request(overrides=(f"description={uri}",))


@pytest.mark.parametrize(
    "uri",
    ["http://mlflow:5000", "sqlite:////shared/mlflow.db", "postgresql://mlflow@db/mlflow", "databricks"],
)
def test_uri_without_a_password_goes_into_the_entrypoint(uri):
    assert shlex.split(request(tracking_uri=uri).entrypoint)[-2:] == ["--tracking-uri", uri]


def test_relative_storage_is_refused_because_it_goes_with_the_job():
    with pytest.raises(UserError, match=r"--storage.*absolute folder"):
        request(storage="lethe-runs")


def test_file_is_named_as_the_job_sees_it(file, tmp_path):
    inner = tmp_path / "sweeps"
    inner.mkdir()
    (inner / "b.yaml").write_text(file.read_text())
    assert file_in_job("sweeps/b.yaml", Path()) == "sweeps/b.yaml"
    assert file_in_job(str(inner / "b.yaml"), tmp_path) == "sweeps/b.yaml"
    assert file_in_job("sweeps/b.yaml", inner) == "b.yaml"
    assert file_in_job("quickstart", Path()) == "quickstart"


def test_file_that_is_not_uploaded_is_refused(file, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(UserError, match=f"--working-dir {tmp_path}"):
        file_in_job("tiny.yaml", elsewhere)


def test_command_refuses_a_wrong_file_before_it_looks_for_a_cluster(file):
    file.write_text("model: {base: scratch}\ndata: {benchmark: closed_world}\nsearch: {trials: -1}\n")
    assert "search.trials" in refusal("tiny.yaml", "--address", "http://127.0.0.1:1")


def test_command_says_that_nothing_answers_at_the_address(file):
    message = refusal("tiny.yaml", "--address", "http://127.0.0.1:1", RAY_AUTH_MODE="disabled")
    assert "--address: no server answers" in message and "ray dashboard" in message


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://head:10001", "auto"])
def test_command_wants_the_url_of_a_dashboard(file, address):
    assert "--address: is not the URL of a dashboard" in refusal("tiny.yaml", "--address", address)


def test_command_without_a_check_wants_a_name(file):
    assert "--name" in refusal("tiny.yaml", "--address", "http://127.0.0.1:1", "--no-check")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 1), ("FAILED", None, 1), ("STOPPED", 0, 1)],
)
def test_exit_status_is_that_of_the_job(status, code, expected):
    from cluster.job_server import exit_status

    assert exit_status(SimpleNamespace(status=status, driver_exit_code=code)) == expected


def test_log_goes_on_where_a_broken_connection_ended_it(monkeypatch):
    from ray.job_submission import JobStatus

    from cluster import job_server

    class Client:
        """Breaks off within the second line, and then tells the whole log from its beginning."""

        connections = 0

        def get_job_info(self, job_id):
            status = JobStatus.RUNNING if self.connections == 0 else JobStatus.SUCCEEDED
            return SimpleNamespace(status=status, driver_exit_code=0)

        async def tail_job_logs(self, job_id):
            self.connections += 1
            for text in ("one\n", "tw") if self.connections == 1 else ("one\ntwo\n", "three\n"):
                yield text
            if self.connections == 1:
                raise RuntimeError("closed")

    monkeypatch.setattr(job_server, "POLL_S", 0)
    server = object.__new__(job_server.JobServer)
    server._client, shown = Client(), []
    assert server.follow("lethe-tiny-1", shown.append) == 0
    assert "".join(shown) == "one\ntwo\nthree\n"
