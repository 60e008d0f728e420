"""Checks in the driver, before any worker starts, that the hub models of a sweep can be downloaded."""

import json
from collections.abc import Iterator
from pathlib import Path

from search_spaces.paths import is_local
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.user_errors import UserError

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
"""Weight files, one of which every model repository must have; the second lists the shards."""


def accept_licence(name: str, kind: str = "") -> str:
    """Return the remedy for a gated repository.

    Args:
        name: Hub id.
        kind: Empty for a model, `datasets/` for a data set.
    """
    return (
        f"accept the licence at https://huggingface.co/{kind}{name} and set HF_TOKEN to a token of that"
        " account"
    )


def check_models(model: ModelSettings, evaluation: EvaluationSettings) -> None:
    """Fetch the configuration of every hub model and of the gibberish classifier, or raise an error.

    Raises:
        UserError: A model is gated, missing, or neither reachable nor cached.
    """
    for key, name in hub_models(model):
        _check(key, name, model.revision)
    if evaluation.fluency == "gibberish" and not is_local(evaluation.gibberish_model):
        _check("evaluation.gibberish_model", evaluation.gibberish_model, None)


def hub_models(model: ModelSettings) -> Iterator[tuple[str, str]]:
    """Yield key and hub id of the models that a sweep loads from the hub."""
    names = {"target": model.target, "retrained": model.retrained}
    # A model that the sweep file leaves out is prepared from the base.
    if None in names.values():
        names["base"] = model.base
    for key, name in names.items():
        if name is not None and name != "scratch" and not is_local(name):
            yield f"model.{key}", name


def _check(key: str, name: str, revision: str | None) -> None:
    # huggingface_hub takes a second to import, and sweeps with local models do without it.
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def refused(message: str, remedy: str) -> UserError:
        return UserError(message, key=key, value=name, remedy=remedy)

    typing = (
        "check the spelling; for a private model set HF_TOKEN; for a folder on this machine write ./ in front"
    )
    try:
        hf_hub_download(name, CONFIG, revision=revision)
    # Subclasses come before their bases: GatedRepoError is a RepositoryNotFoundError, and
    # LocalEntryNotFoundError is an EntryNotFoundError.
    except GatedRepoError as error:
        raise refused("the model is gated, and the hub refused access", accept_licence(name)) from error
    except RepositoryNotFoundError as error:
        raise refused("the hub has no such model, or the model is private", typing) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{name} has no such revision",
            key="model.revision",
            value=revision,
            remedy="give a branch, tag or commit that it has",
        ) from error
    except LocalEntryNotFoundError as error:
        # The hub was reached and refused; huggingface_hub then looks into the cache and reports the miss
        # instead.
        if isinstance(error.__cause__, HfHubHTTPError):
            raise refused(*_http_refusal(name, error.__cause__.response.status_code)) from error
        raise refused(
            "the hub cannot be reached, and the model is not in the cache", _offline_remedy(name, revision)
        ) from error
    except EntryNotFoundError as error:
        raise refused(
            f"the repository has no {CONFIG}: it holds no model", "give a repository in transformers' format"
        ) from error
    except HFValidationError as error:
        raise refused("neither a folder nor a hub id", typing) from error
    except HfHubHTTPError as error:
        raise refused(*_http_refusal(name, error.response.status_code)) from error
    # Online, missing weights are downloaded later; offline, the configuration alone may be in the cache.
    if constants.HF_HUB_OFFLINE and not _has_weights(name, revision):
        raise refused(
            "HF_HUB_OFFLINE is set, and the weights are not in the cache", _offline_remedy(name, revision)
        )


def _http_refusal(name: str, status: int) -> tuple[str, str]:
    """Return message and remedy for an HTTP error of the hub."""
    if status in (401, 403):
        return (
            f"the hub refuses access with the given token, or without one (HTTP {status})",
            accept_licence(name),
        )
    return f"the hub answers HTTP {status}", "try again later"


def _has_weights(name: str, revision: str | None) -> bool:
    """Whether the cache holds all weight files of a model."""
    # A model has either one file of weights or an index of shards.
    single, index = (_cached(name, file, revision) for file in WEIGHTS)
    if single is not None or index is None:
        return single is not None
    shards = set(json.loads(index.read_text())["weight_map"].values())
    return all(_cached(name, shard, revision) for shard in shards)


def _cached(name: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    # The result may also be an object that means that the hub has no such file.
    return Path(found) if isinstance(found, str) else None


def _offline_remedy(name: str, revision: str | None) -> str:
    pinned = f" --revision {revision}" if revision else ""
    return (
        "check the network and unset HF_HUB_OFFLINE, or fill the cache where there is one: `hf download"
        f" {name}{pinned}`"
    )
