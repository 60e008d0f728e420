"""`lethe export`: writes the kept weights of a rung as a Hugging Face folder of its own, with its
evidence."""

import json
import shutil
from pathlib import Path

from orchestrator.followups.model_card import model_card
from orchestrator.followups.model_evidence import Evidence
from orchestrator.pareto.member_selection import ChosenRung
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.user_errors import UserError
from trainables.durable_files import new_folder

EVIDENCE_FILE = "lethe_evidence.json"


def check_output(output: Path) -> None:
    """Refuse a place that holds something.

    Raises:
        UserError: It is a file, or a folder that is not empty.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        what = "is a folder that is not empty" if output.is_dir() else "exists and is no folder"
        raise UserError(
            what,
            key="OUT",
            value=str(output),
            remedy="give a folder that does not exist yet: nothing is overwritten",
        )


def find_weights(folder: SweepFolder, chosen: ChosenRung) -> Path:
    """The folder with the weights of a rung.

    Raises:
        UserError: They were dropped, as those of dominated rungs are; says which are there, and how to make
            them again.
    """
    weights = folder.weights(chosen.record.trial_id) / f"rung{chosen.rung}"
    if weights in folder.kept_weights(chosen.record.trial_id):
        return weights
    trials = sorted(folder.path.glob("trials/*"))
    kept = sorted(
        f"{trial.name}@{path.name.removeprefix('rung')}"
        for trial in trials
        for path in folder.kept_weights(trial.name)
    )
    rung = f"{chosen.record.trial_id}@{chosen.rung}"
    raise UserError(
        "the weights of this rung were not kept: only those of rungs on the front are",
        key="--trial",
        value=chosen.name,
        allowed=f"with weights: {', '.join(kept) or 'none'}",
        remedy=f"`lethe reproduce {folder.name} {rung} --weights FOLDER` trains them again",
    )


def export(weights: Path, evidence: Evidence, output: Path) -> None:
    """Write the folder so that it is either absent or whole.

    Args:
        weights: What a lane wrote: config, tokenizer, safetensors.
        evidence: What stands in the model card.
        output: See `check_output`.

    Raises:
        UserError: The disk refuses, or the weights went away meanwhile, as they do when a sweep that runs
            finds better ones.
    """
    try:
        # The folder may be there and empty; if it was filled meanwhile, this fails.
        with new_folder(output) as partial:
            shutil.copytree(weights, partial, dirs_exist_ok=True)
            (partial / EVIDENCE_FILE).write_text(json.dumps(evidence.as_json(), indent=1))
            (partial / "README.md").write_text(model_card(evidence), encoding="utf-8")
    except OSError as error:
        remedy = (
            "look at the disk's space and rights"
            if weights.is_dir()
            else "the sweep has dropped these weights: see `lethe front`"
        )
        raise UserError(
            f"cannot be written: {error.strerror or error}", key="OUT", value=str(output), remedy=remedy
        ) from error
