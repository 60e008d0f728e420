"""Registers an exported model in MLflow's model registry, as a version linked to its trial's run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.tracking.tracked_sweep import find_parent, readable_store
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NAME_REFUSED = "/:"
"""Characters that MLflow uses as separators in model URIs and refuses in names."""


@dataclass(frozen=True)
class RegistryEntry:
    """The model version to register."""

    name: str
    """Name in the registry; another model of the same name becomes its next version."""
    sweep_name: str
    sweep_identity: str | None
    """`orchestrator.storage.provenance.sweep_identity`."""
    trial_id: str
    rung: int
    tags: Mapping[str, str]
    """Further tags of the version: the objectives on the test part."""


def check_name(name: str) -> None:
    """Checks a name before the export, so that MLflow does not refuse it afterwards.

    Raises:
        UserError: The name is empty or holds a separator.
    """
    if not name.strip() or any(letter in name for letter in _NAME_REFUSED):
        raise UserError(
            "not a name for MLflow's registry", key="--register", value=name, allowed="a name without / and :"
        )


def register_model(uri: str, experiment: str, entry: RegistryEntry, folder: Path) -> str:
    """Logs a folder as artifacts of the trial's run, and creates a model version from them.

    Args:
        uri: Tracking server or store that has the registry.
        experiment: MLflow experiment of all sweeps.
        entry: The model version to register.
        folder: The exported model.

    Returns:
        The number of the version.

    Raises:
        UserError: MLflow is unreachable, refuses, or does not have the trial.
    """
    check_name(entry.name)
    with readable_store(uri) as client:
        parent = find_parent(client, uri, experiment, entry.sweep_name, entry.sweep_identity)
        wanted = (
            f"tags.mlflow.parentRunId = '{parent.info.run_id}' and tags.`lethe.trial` = '{entry.trial_id}'"
        )
        runs = client.search_runs([parent.info.experiment_id], wanted, max_results=1)
        if not runs:
            remedy = f"`lethe run` on the sweep's file sends what MLflow lacks: {entry.sweep_name}"
            raise UserError(
                "MLflow has no run of this trial", key="--register", value=entry.trial_id, remedy=remedy
            )
        # One folder of artifacts per rung: several rungs of a trial may be registered.
        run, place = runs[0], f"model-rung{entry.rung}"
        client.log_artifacts(run.info.run_id, str(folder), place)
        _make_registered(client, entry.name)
        tags = {
            "lethe.sweep": entry.sweep_name,
            "lethe.trial": entry.trial_id,
            "lethe.rung": str(entry.rung),
            **entry.tags,
        }
        # The artifacts are complete already, so there is nothing to wait for.
        version = client.create_model_version(
            entry.name,
            source=f"{run.info.artifact_uri}/{place}",
            run_id=run.info.run_id,
            tags=tags,
            description=(
                f"{entry.trial_id} at rung {entry.rung} of the Lethe sweep {entry.sweep_name}; its README.md"
                " has the evidence."
            ),
            await_creation_for=0,
        )
        return str(version.version)


def _make_registered(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, tags={"lethe": "true"})
    # An existing name is fine: the model becomes its next version.
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
