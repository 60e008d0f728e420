"""The data of a sweep as MLflow lists it: names, digests, sources and sizes, and nothing of what is in
them."""

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
"""MLflow takes 36."""


@dataclass(frozen=True)
class DatasetInfo:
    """One set of examples."""

    role: str
    """`forget`, `retain` or `holdout`: the context in which it is used."""
    name: str
    """What MLflow shows: `tofu-forget`."""
    digest: str
    """Start of the sha256 of its examples."""
    examples: int
    source_type: str
    """One of MLflow's own: `code`, `hugging_face` or `local`."""
    source: str
    """JSON in the shape that belongs to the type."""


def describe_datasets(data: DataSettings, benchmark: Benchmark) -> tuple[DatasetInfo, ...]:
    """The forget, retain and, where there is one, holdout set of a benchmark.

    Args:
        data: The sweep's `data:` block, which says where they come from.
        benchmark: Its contents.

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
            name, text = f"{data.benchmark}-{role}", redacted(json.dumps(source))
            described.append(
                DatasetInfo(
                    role, name, _digest(examples), len({example.id for example in examples}), kind, text
                )
            )
    return tuple(described)


def dataset_inputs(datasets: Sequence[DatasetInfo]) -> "list[DatasetInput]":
    """The same in MLflow's classes."""
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
