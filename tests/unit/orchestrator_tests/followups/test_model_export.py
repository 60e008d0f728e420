import json
import shutil

import pytest
import yaml

from orchestrator.followups.model_card import model_card
from orchestrator.followups.model_evidence import gather_evidence
from orchestrator.followups.model_export import EVIDENCE_FILE, check_output, export, find_weights
from orchestrator.pareto.member_selection import choose_rung
from orchestrator.pareto.objectives import criteria_of
from orchestrator.storage.followup_records import read_confirmations
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import measured, small_sweep, store
from trainables.durable_files import write_json


@pytest.fixture
def stored(tmp_path):
    folder, sweep, study = store(tmp_path / "storage", small_sweep(model={"target": "org/model"}))
    (folder.weights("t0001") / "rung1" / "model.safetensors").write_bytes(b"weights")
    repetitions = [
        {
            "trial_id": "t0001",
            "rung": 1,
            "seed": seed,
            "member": "t0001",
            "metrics": measured(0.4 + seed / 10, 0.7),
            "spent_s": 1.0,
        }
        for seed in (1, 2)
    ]
    failed = {"trial_id": "t0001", "rung": 1, "seed": 3, "member": "t0001", "metrics": {}, "reason": "a | b"}
    other = {"trial_id": "t0004", "rung": 1, "seed": 1, "member": "t0004", "metrics": measured(0.1, 0.1)}
    write_json(folder.path / "confirmations.json", [*repetitions, failed, other])
    assert len(read_confirmations(folder)) == 4
    return folder, sweep, choose_rung(study.records(), criteria_of(sweep), "t0001", "--trial")


def evidence_of(stored):
    folder, sweep, chosen = stored
    return gather_evidence(sweep, folder, chosen, {"version.torch": "2.13.0"}, "at the sweep")


def test_export_is_complete_and_leaves_no_other_file(stored, tmp_path):
    output = tmp_path / "out" / "model"
    export(find_weights(stored[0], stored[2]), evidence_of(stored), output)
    assert {path.name for path in output.iterdir()} == {"model.safetensors", "README.md", EVIDENCE_FILE}
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    evidence = json.loads((output / EVIDENCE_FILE).read_text())
    assert evidence["metrics"] == measured(0.5, 0.7)
    assert [one["seed"] for one in evidence["confirmations"]] == [1, 2, 3]


def test_card_shows_the_model_between_the_original_and_the_retrained_model(stored):
    card = model_card(evidence_of(stored))
    front_matter = yaml.safe_load(card.split("---")[1])
    assert front_matter["base_model"] == "org/model"
    assert front_matter["tags"] == ["unlearning", "lethe"]
    assert card.count("| forget_true_mass | 0.95 | 0.5 | 0.05 |") == 2
    assert "| 3 | - | - | a \\| b |" in card
    assert "| mean | 0.5500 ± " in card
    assert "| version.torch (at the sweep) | 2.13.0 |" in card
    assert "lethe reproduce small t0001" in card


def test_card_says_where_nothing_was_confirmed(stored):
    (stored[0].path / "confirmations.json").unlink()
    assert "lethe confirm small --trial t0001" in model_card(evidence_of(stored))


def test_output_that_would_be_overwritten_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path, words in ((file, "not a folder"), (tmp_path, "not empty")):
        with pytest.raises(UserError, match=f"OUT: .*{words}.*nothing is overwritten"):
            check_output(path)
    empty = tmp_path / "empty"
    empty.mkdir()
    check_output(empty)


def test_export_fills_an_empty_folder(stored, tmp_path):
    output = tmp_path / "empty"
    output.mkdir()
    export(find_weights(stored[0], stored[2]), evidence_of(stored), output)
    assert (output / "model.safetensors").is_file()


def test_dropped_weights_are_refused_with_the_rungs_that_have_weights(stored):
    folder, _, chosen = stored
    shutil.rmtree(folder.weights("t0001"))
    message = r"not kept.*with weights: t0000@1, .*`lethe reproduce small t0001@1 --weights FOLDER`"
    with pytest.raises(UserError, match=message):
        find_weights(folder, chosen)


def test_weights_that_are_removed_during_the_export_leave_no_folder(stored, tmp_path):
    weights = find_weights(stored[0], stored[2])
    evidence = evidence_of(stored)
    shutil.rmtree(weights)
    with pytest.raises(UserError, match=r"the sweep has dropped these weights|cannot be written"):
        export(weights, evidence, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
