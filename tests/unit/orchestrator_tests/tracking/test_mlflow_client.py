import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import pytest

from orchestrator.tracking.mlflow_client import version_of_ui


@pytest.fixture(scope="module")
def process():
    """What a process finds that is not under test: there MLflow is silent anyway."""
    code = """
import json, sys
import orchestrator.tracking.tracker
from orchestrator.tracking.mlflow_client import new_client
imported = sorted({"mlflow", "torch"} & sys.modules.keys())
new_client("http://127.0.0.1:9")
from mlflow.telemetry.client import get_telemetry_client
print(json.dumps({"imported": imported, "telemetry": get_telemetry_client() is not None}))
"""
    silent = (
        "MLFLOW_DISABLE_TELEMETRY",
        "PYTEST_CURRENT_TEST",
        "PYTEST_VERSION",
        "CI",
        "GITHUB_ACTIONS",
        "DO_NOT_TRACK",
    )
    environment = {key: value for key, value in os.environ.items() if key not in silent}
    return json.loads(
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True).stdout
    )


def test_tracking_is_imported_without_mlflow(process):
    assert process["imported"] == []


def test_mlflow_sends_no_usage_statistics(process):
    assert process["telemetry"] is False


@pytest.fixture
def server():
    """Answers `/team/version` with a version if the password is right, and nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            allowed = self.path == "/team/version" and self.headers.get("Authorization", "").startswith(
                "Basic "
            )
            self.send_response(200 if allowed else 404)
            self.end_headers()
            self.wfile.write(b"3.16.1\n")

        def log_message(self, *what):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_version_of_a_server_is_its_own(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    assert version_of_ui(f"{server}/team") == "3.16.1"


def test_version_of_a_server_that_does_not_say_is_unknown(server):
    assert version_of_ui(server) == "unknown"


def test_version_of_a_database_is_the_one_installed_here():
    assert version_of_ui("sqlite:////tmp/mlflow.db") == metadata.version("mlflow")


def test_version_of_a_hosted_service_is_no_version():
    assert version_of_ui("databricks://profile") == "hosted"
