"""`lethe dynamics` on the models of a finished sweep."""

import json

import pytest
from PIL import Image

from tests.support.processes.launch import lethe, lethe_here


@pytest.mark.parametrize("policy", [pytest.param("original", marks=pytest.mark.soak), "knee"])
def test_a_step_is_predicted_for_every_group_of_answers(finished, head, tmp_path, policy):
    _, storage, _ = finished
    picture = tmp_path / "dynamics.png"
    options = ("--trial", policy, "--losses", "ga,npo,wga+token,npo+sequence", "--out", str(picture))
    found = json.loads(lethe("dynamics", "tiny", *options, "--json", storage=storage, **head.joined).stdout)
    assert {"target", "rephrasing", "high band", "mid band", "low band", "unrelated"} == set(found["sizes"])
    assert [(update["method"], update["beliefs"]) for update in found["updates"]] == [
        ("ga", "none"),
        ("npo", "none"),
        ("wga", "token"),
        ("npo", "sequence"),
    ]
    for update in found["updates"]:
        assert update["slopes"]["0.0001"] == pytest.approx(1, abs=0.01)
        assert update["correlations"]["0.0001"] > 0.999
        assert sum(update["residual_mass"].values()) == pytest.approx(1)
        # With beliefs the likelihood of a target may rise, if the model hardly knows it.
        if update["beliefs"] == "none":
            target = update["groups"]["target"]
            assert target["predicted"] < 0 and target["actual"] < 0
        for group in update["groups"].values():
            assert group["predicted"] == pytest.approx(group["logit"] + group["softmax"])
    with Image.open(picture) as image:
        assert min(image.size) > 500


def test_table_fits_a_terminal_and_the_picture_is_in_the_sweeps_folder(finished, head):
    _, storage, _ = finished
    done = lethe("dynamics", "tiny", "--losses", "ga", storage=storage, COLUMNS="80", **head.joined)
    assert "rephrasing" in done.stdout and "share of A" in done.stdout and "…" not in done.stdout
    assert (storage / "tiny" / "dynamics-original.png").is_file()


@pytest.mark.parametrize("losses", ["undial", "ga+belief", "ceu+token", "nothing"])
def test_unknown_loss_is_refused(finished, losses):
    _, storage, _ = finished
    refused = lethe_here("dynamics", "tiny", "--losses", losses, storage=storage, check=False)
    assert refused.returncode == 2 and f'given: "{losses}"' in refused.stderr


@pytest.mark.soak
def test_model_of_a_file_is_prepared_without_running_a_trial(finished, head, tmp_path):
    file, storage, _ = finished
    other = tmp_path / "unlearnt.yaml"
    other.write_text(file.read_text().replace("name: tiny", "name: unlearnt"))
    found = json.loads(
        lethe("dynamics", str(other), "--losses", "ga", "--json", storage=storage, **head.joined).stdout
    )
    assert [update["method"] for update in found["updates"]] == ["ga"]
    folder = storage / "unlearnt"
    assert (folder / "dynamics-original.png").is_file() and not (folder / "trials").exists()
    refused = lethe_here("dynamics", str(other), "--trial", "knee", storage=storage, check=False)
    assert refused.returncode == 2 and "a file has no rungs" in refused.stderr
