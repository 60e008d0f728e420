import subprocess

import pytest

from orchestrator.storage.provenance import flattened, git_state, provenance, redacted, sweep_identity


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            check=True,
            capture_output=True,
        )

    git("init")
    file = tmp_path / "code.py"
    file.write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    return file


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p@ss@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("https://token@host/a and mysql+pymysql://u:p@h", "https://***@host/a and mysql+pymysql://***@h"),
        ("http://host/x?user=me&password=hush&token=abc", "http://host/x?user=me&password=***&token=***"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_redacted_hides_credentials_and_nothing_else(text, shown):
    assert redacted(text) == shown


def test_flattened_keeps_domains_and_lists_whole():
    config = {
        "a": {"b": 1, "c": {}},
        "space": {"forget.npo.beta": {"uniform": [0, 1]}},
        "d": [1, 2],
        "e": "x",
        "f": None,
    }
    assert flattened(config) == {
        "a.b": "1",
        "a.c": "{}",
        "space.forget.npo.beta": '{"uniform": [0, 1]}',
        "d": "[1, 2]",
        "e": "x",
        "f": "null",
    }


def test_git_state_distinguishes_a_clean_checkout_from_a_changed_one(checkout):
    clean = git_state(checkout)
    assert len(clean["git.commit"]) == 40
    assert clean["git.dirty"] == "false"
    checkout.write_text("2")
    assert git_state(checkout) == {**clean, "git.dirty": "true"}


def test_git_state_is_none_for_a_file_that_git_does_not_track(checkout):
    other = checkout.with_name("installed.py")
    other.write_text("")
    assert git_state(other) == {"git.commit": "none"}


def test_provenance_has_versions_and_a_commit():
    tags = provenance()
    assert tags["version.torch"].startswith("2.")
    assert "git.commit" in tags


def test_sweep_identity_stays_with_the_folder(tmp_path):
    first, other = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    other.mkdir()
    assert sweep_identity(first) == sweep_identity(first) != sweep_identity(other)
