"""Writes the model card (README.md) of an exported model: front matter for the hub, evidence as tables."""

from collections.abc import Mapping, Sequence

import yaml

from orchestrator.followups.model_evidence import Evidence
from orchestrator.pareto.seed_statistics import estimate
from orchestrator.table import Table, columns

ABSENT = "-"
"""Cell of a value that was not measured."""


def model_card(evidence: Evidence) -> str:
    """Returns the card as Markdown with YAML front matter, the form that the Hugging Face hub reads."""
    front_matter = {
        "base_model": evidence.base_model,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "lethe"],
    }
    objectives = ", ".join(f"{name} ({direction})" for name, direction in evidence.objectives.items())
    settings = [
        (key, value, "yes" if key in evidence.searched else "") for key, value in evidence.settings.items()
    ]
    introduction = (
        "A forget set was unlearned from this model in a Lethe sweep (belief losses: "
        f"[arXiv 2510.19422](https://arxiv.org/abs/2510.19422)). It is rung {evidence.rung} of the "
        f"{evidence.rungs} that its trial reached. The sweep's objectives: {objectives}."
    )
    blocks = [
        f"---\n{yaml.safe_dump(front_matter, sort_keys=False)}---",
        f"# {evidence.base_model}, unlearned: {evidence.trial} of sweep {evidence.sweep}",
        introduction,
        *_metric_tables(evidence),
        *_confirmations(evidence),
        "## Settings",
        _table(("setting", "value", "searched"), settings),
        "## Origins",
        _table(("what", "value"), _origins(evidence)),
        *_how_to_reproduce(evidence),
    ]
    return "\n\n".join(blocks) + "\n"


PARTS = {
    "test": "Test part: what is reported, never seen by the search",
    "validation": "Validation part: what the search saw",
}


def _metric_tables(evidence: Evidence) -> list[str]:
    blocks = []
    for part, title in PARTS.items():
        blocks.append(f"## {title}")
        metrics = _of_part(evidence.metrics, part)
        if not metrics:
            blocks.append("Not measured at this rung.")
            continue
        original = _of_part(evidence.baselines.get("original", {}), part)
        retrained = _of_part(evidence.baselines.get("retrained", {}), part)
        rows = [
            (name, _number(original.get(name)), _number(value), _number(retrained.get(name)))
            for name, value in metrics.items()
        ]
        # The objectives come first, because the model was chosen by them.
        rows.sort(key=lambda row: (row[0] not in evidence.objectives, row[0]))
        blocks.append(_table(("metric", "original model", "this model", "retrained model"), rows))
    return blocks


def _confirmations(evidence: Evidence) -> list[str]:
    if not evidence.confirmations:
        command = f"lethe confirm {evidence.sweep} --trial {evidence.trial}"
        return ["## Confirmations", f"None: `{command}` repeats this model under new seeds."]
    rows = []
    for repetition in evidence.confirmations:
        values = [_number(repetition["metrics"].get(f"test/{name}")) for name in evidence.objectives]
        rows.append((str(repetition["seed"]), *values, repetition["reason"] or ""))
    means = []
    for name in evidence.objectives:
        key = f"test/{name}"
        # Repetitions that failed have no metrics.
        measured = [each["metrics"][key] for each in evidence.confirmations if key in each["metrics"]]
        means.append(estimate(measured).text() if measured else ABSENT)
    rows.append(("mean", *means, ""))
    table = _table(("seed", *evidence.objectives, "failed"), rows)
    return ["## Confirmations: the same settings under other seeds", table]


def _origins(evidence: Evidence) -> list[tuple[str, str]]:
    rows = [("seed", str(evidence.seed)), ("ZeRO-3 workers", str(evidence.workers))]
    rows.append(("data digest (sha256)", evidence.data_digest or "the data can no longer be read"))
    # The settings of the data, which point to it; the text of the data is not in the card.
    rows += [(f"data: {key}", str(value)) for key, value in evidence.data.items() if value is not None]
    rows += [(f"{key} ({evidence.versions_when})", value) for key, value in evidence.versions.items()]
    return rows


def _how_to_reproduce(evidence: Evidence) -> list[str]:
    # A trial is repeated whole: its earlier rungs are part of its path.
    trial = evidence.trial.partition("@")[0]
    conditions = (
        "Needed: the sweep's folder, or the MLflow server that holds the sweep, and the same data. The"
        " command says whether the result is identical:"
    )
    return [
        "## How to reproduce",
        conditions,
        f"```bash\nlethe reproduce {evidence.sweep} {trial}\n```",
        "`lethe_evidence.json` holds everything above for programs.",
    ]


def _of_part(metrics: Mapping[str, float], part: str) -> dict[str, float]:
    prefix = f"{part}/"
    return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Table(columns(*head), rows).markdown()
