"""`lethe export`: writes the kept weights of a rung as a Hugging Face folder with a model card."""

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
"""Name of the file that holds the evidence as JSON."""


def check_output(output: Path) -> None:
    """Checks that a folder can be written at this path without overwriting anything.

    Raises:
        UserError: The path is a file, or a folder that is not empty.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    # A dangling link does not exist for `exists`, and would be overwritten.
    if output.exists() or output.is_symlink():
        problem = "is a folder that is not empty" if output.is_dir() else "exists and is not a folder"
        raise UserError(
            problem,
            key="OUT",
            value=str(output),
            remedy="give a folder that does not exist yet: nothing is overwritten",
        )


def find_weights(folder: SweepFolder, chosen: ChosenRung) -> Path:
    """Returns the folder with the weights of a rung.

    Raises:
        UserError: The weights were not kept, because the rung is not on the front. The message lists the
            rungs with weights, and the command that trains the missing ones again.
    """
    weights = folder.weights(chosen.record.trial_id) / f"rung{chosen.rung}"
    if weights in folder.kept_weights(chosen.record.trial_id):
        return weights
    kept = sorted(
        f"{trial.name}@{path.name.removeprefix('rung')}"
        for trial in folder.path.glob("trials/*")
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
    """Writes the weights with their model card atomically: the folder is complete, or does not exist.

    Args:
        weights: Folder that a worker wrote: config, tokenizer, safetensors.
        evidence: Content of the model card.
        output: The folder to write: missing or empty, see `check_output`.

    Raises:
        UserError: The folder cannot be written, or the weights were removed meanwhile: a running sweep drops
            those of a rung that leaves the front.
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
