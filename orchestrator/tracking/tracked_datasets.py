"""Describes the datasets of a sweep for MLflow: names, digests, sources and sizes, but no contents."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.storage.provenance import redacted
from search_spaces.settings.data_settings import ClosedWorldData, DataSettings, LocalFilesData, WmdpData
from trainables.data.examples import Benchmark, Example, contents_of

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_DIGEST_CHARACTERS = 32
"""Length of a digest; MLflow accepts at most 36 characters."""


@dataclass(frozen=True)
class DatasetInfo:
    """Metadata of one set of examples."""

    role: str
    """The use of the set: `forget`, `retain` or `holdout`."""
    name: str
    """The name that MLflow shows, such as `tofu-forget`."""
    digest: str
    """The beginning of the SHA-256 of its examples."""
    examples: int
    source_type: str
    """A source type of MLflow: `code`, `hugging_face` or `local`."""
    source: str
    """JSON in the form that belongs to the source type."""


def describe_datasets(data: DataSettings, benchmark: Benchmark) -> tuple[DatasetInfo, ...]:
    """Describes the forget, retain and holdout set of a benchmark.

    Args:
        data: The sweep's `data:` block, which holds the sources.
        benchmark: The loaded benchmark.

    Returns:
        One entry for each set that has examples.
    """
    holdout = [example for part in benchmark.parts.values() for example in part.sets.get("holdout", ())]
    sets: dict[str, Sequence[Example]] = {
        "forget": benchmark.forget,
        "retain": benchmark.retain,
        "holdout": holdout,
    }
    described = []
    for role, examples in sets.items():
        if examples:
            kind, source = _source(data, role)
            # Redacted, because a source may be a URL with a password. Examples of one item share its id.
            name, text = f"{data.benchmark}-{role}", redacted(json.dumps(source))
            described.append(
                DatasetInfo(
                    role, name, _digest(examples), len({example.id for example in examples}), kind, text
                )
            )
    return tuple(described)


def dataset_inputs(datasets: Sequence[DatasetInfo]) -> "list[DatasetInput]":
    """Converts the descriptions to MLflow's classes."""
    # MLflow's dataset classes would need the data itself; these entities need only its description.
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = {
        "mlflow_colspec": [
            {"type": "string", "name": name, "required": True} for name in ("prompt", "response")
        ]
    }
    return [
        DatasetInput(
            Dataset(
                name=info.name,
                digest=info.digest,
                source_type=info.source_type,
                source=info.source,
                schema=json.dumps(columns),
                profile=json.dumps({"num_rows": info.examples}),
            ),
            [InputTag("mlflow.data.context", info.role)],
        )
        for info in datasets
    ]


def _source(data: DataSettings, role: str) -> tuple[str, dict[str, Any]]:
    if isinstance(data, ClosedWorldData):
        return "code", {"tags": {key: str(value) for key, value in data.model_dump().items()}}
    if isinstance(data, LocalFilesData):
        return "local", {"uri": getattr(data, role)}
    if isinstance(data, WmdpData):
        return "local", {"uri": getattr(data, f"{role}_corpus")}
    return "hugging_face", {
        "path": data.path,
        "revision": data.revision,
        "split": data.forget if role == "forget" else role,
    }


def _digest(examples: Sequence[Example]) -> str:
    contents = json.dumps(contents_of(examples), sort_keys=True)
    return hashlib.sha256(contents.encode()).hexdigest()[:_DIGEST_CHARACTERS]
