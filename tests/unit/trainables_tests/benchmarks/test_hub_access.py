"""Hub models that cannot be had, against a server that answers as the hub does."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.user_errors import UserError
from trainables.benchmarks.hub_access import check_models

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = json.dumps({"model_type": "llama"}).encode()
ANSWERS = {
    # Repository -> status and the hub's own headers.
    "org/gated": (
        401,
        {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/gated is restricted."},
    ),
    "org/waiting": (
        403,
        {"X-Error-Code": "GatedRepo", "X-Error-Message": "You are not in the authorized list."},
    ),
    "org/missing": (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "org/hidden": (401, {"X-Error-Message": "Invalid username or password."}),
    "org/old": (404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id: v9"}),
    "org/text": (404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}),
    "org/forbidden": (403, {"X-Error-Message": "Forbidden"}),
    "org/open": (200, {"X-Repo-Commit": COMMIT, "ETag": '"abc"'}),
}


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD and GET of `/<owner>/<name>/resolve/<revision>/config.json`."""

    def do_HEAD(self):
        name = "/".join(self.path.split("/")[1:3])
        status, headers = ANSWERS[name]
        body = CONFIG if status == 200 else b""
        self.server.requests.append((self.path, self.headers.get("Authorization")))
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(key, value)
        self.end_headers()
        return body

    def do_GET(self):
        body = self.do_HEAD()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Quiet."""


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's models."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path


@pytest.fixture
def hub(server, cache, monkeypatch):
    """The server in the hub's place."""
    _use(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}")
    server.requests.clear()
    return server


def _use(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    # Compiled at import from HF_ENDPOINT.
    monkeypatch.setattr(_http, "REPO_API_REGEX", re.compile(rf"^{endpoint}/.+/resolve/"))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "org/gated",
            "the model is gated.*accept the licence at https://huggingface.co/org/gated and set HF_TOKEN",
        ),
        ("org/waiting", "the model is gated.*accept the licence at"),
        ("org/missing", "the hub has no such model.*check the spelling"),
        ("org/hidden", "the hub has no such model, or the model is private.*set HF_TOKEN"),
        ("org/text", "holds no model.*transformers' format"),
        ("org/forbidden", r"refuses access.*HTTP 403.*set HF_TOKEN"),
        ("one/two/three", "neither a folder nor a hub id.*write ./ in front"),
    ],
)
def test_model_that_cannot_be_had_is_named_with_key_value_and_remedy(hub, name, words):
    with pytest.raises(UserError, match=f'(?si)^model.target: .*given: "{name}".*') as caught:
        check_models(ModelSettings(target=name), EvaluationSettings())
    with pytest.raises(UserError, match=r"^model\.retrained: "):
        check_models(ModelSettings(base="scratch", retrained=name), EvaluationSettings())
    assert re.search(f"(?si){words}", str(caught.value)), str(caught.value)


def test_revision_that_is_not_there_is_named_by_its_own_key(hub):
    with pytest.raises(UserError, match=r'model.revision: org/old has no such revision \(given: "v9"\)'):
        check_models(ModelSettings(target="org/old", revision="v9"), EvaluationSettings())


def test_model_that_exists_is_requested_at_its_revision(hub, cache):
    check_models(ModelSettings(target="org/open", revision=COMMIT), EvaluationSettings())
    assert hub.requests and all(f"/org/open/resolve/{COMMIT}/config.json" in path for path, _ in hub.requests)
    assert (cache / "models--org--open" / "snapshots" / COMMIT / "config.json").read_bytes() == CONFIG


def test_token_of_the_environment_is_shown_to_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    with pytest.raises(UserError) as caught:
        check_models(ModelSettings(target="org/waiting"), EvaluationSettings())
    assert hub.requests[0][1] == "Bearer hf_planted"
    assert "hf_planted" not in str(caught.value)


def test_no_network_is_said_and_how_to_go_on(cache, monkeypatch):
    _use(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries for 20 s
    with pytest.raises(
        UserError,
        match=r"model.target: the hub cannot be reached.*org/open.*`hf download org/open --revision v1`",
    ):
        check_models(ModelSettings(target="org/open", revision="v1"), EvaluationSettings())


def _fill(cache, *files, shards=()):
    """A cache folder as the hub's client lays it out."""
    folder = cache / "models--org--open"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for file in files:
        (snapshot / file).write_text("{}")
    if shards:
        (snapshot / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {shard: shard for shard in shards}})
        )


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_cache_is_enough_when_offline(cache, monkeypatch, revision):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _fill(cache, "config.json", "model.safetensors")
    check_models(ModelSettings(target="org/open", revision=revision), EvaluationSettings())


def test_cache_without_all_weights_is_refused_when_offline(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _fill(cache, "config.json", "a.safetensors", shards=("a.safetensors", "b.safetensors"))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, and the weights are not in the cache"):
        check_models(ModelSettings(target="org/open"), EvaluationSettings())
    (cache / "models--org--open" / "snapshots" / COMMIT / "b.safetensors").write_text("")
    check_models(ModelSettings(target="org/open"), EvaluationSettings())


def test_nothing_is_requested_for_folders_and_scratch(hub, tmp_path):
    check_models(ModelSettings(base="scratch"), EvaluationSettings())
    check_models(
        ModelSettings(target=str(tmp_path), retrained="./somewhere", base="org/missing"), EvaluationSettings()
    )
    assert hub.requests == []
