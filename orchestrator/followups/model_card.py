"""The model card (README.md) of an exported model: Hugging Face front matter, and the evidence as tables."""

from collections.abc import Mapping, Sequence

import yaml

from orchestrator.followups.model_evidence import Evidence
from orchestrator.pareto.seed_statistics import estimate
from orchestrator.table import Table, columns

ABSENT = "-"


def model_card(evidence: Evidence) -> str:
    """Markdown with YAML front matter, as the Hugging Face hub reads it."""
    front_matter = {
        "base_model": evidence.base_model,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "lethe"],
    }
    objectives = ", ".join(f"{name} ({direction})" for name, direction in evidence.objectives.items())
    settings = [(key, value, "yes" * (key in evidence.searched)) for key, value in evidence.settings.items()]
    blocks = [
        f"---\n{yaml.safe_dump(front_matter, sort_keys=False)}---",
        f"# {evidence.base_model}, unlearned: {evidence.trial} of sweep {evidence.sweep}",
        (
            "A forget set was unlearned from this model in a Lethe sweep (belief losses: "
            f"[arXiv 2510.19422](https://arxiv.org/abs/2510.19422)). It is rung {evidence.rung} of the "
            f"{evidence.rungs} that its trial reached. The sweep's objectives: {objectives}."
        ),
        *_metric_tables(evidence),
        *_confirmations(evidence),
        "## Settings",
        _table(("setting", "value", "searched"), settings),
        "## Origins",
        _table(("what", "value"), _origins(evidence)),
        *_how_to_reproduce(evidence),
    ]
    return "\n\n".join(blocks) + "\n"


def _metric_tables(evidence: Evidence) -> list[str]:
    blocks = []
    for part, title in (
        ("test", "Test part: what is reported, never seen by the search"),
        ("validation", "Validation part: what the search saw"),
    ):
        mine = _of_part(evidence.metrics, part)
        blocks.append(f"## {title}")
        if not mine:
            blocks.append("Not measured at this rung.")
            continue
        others = [_of_part(evidence.baselines.get(name, {}), part) for name in ("original", "retrained")]
        rows = [
            (name, _number(others[0].get(name)), _number(value), _number(others[1].get(name)))
            for name, value in mine.items()
        ]
        rows.sort(key=lambda row: (row[0] not in evidence.objectives, row[0]))
        blocks.append(_table(("metric", "original model", "this model", "retrained model"), rows))
    return blocks


def _confirmations(evidence: Evidence) -> list[str]:
    if not evidence.confirmations:
        return [
            "## Confirmations",
            (
                f"None: `lethe confirm {evidence.sweep} --pick {evidence.trial}` repeats this model under new"
                " seeds."
            ),
        ]
    rows = []
    for one in evidence.confirmations:
        values = [_number(one["metrics"].get(f"test/{name}")) for name in evidence.objectives]
        rows.append((str(one["seed"]), *values, one["reason"] or ""))
    spread = []
    for name in evidence.objectives:
        measured = [
            one["metrics"][f"test/{name}"]
            for one in evidence.confirmations
            if f"test/{name}" in one["metrics"]
        ]
        spread.append(estimate(measured).text() if measured else ABSENT)
    rows.append(("mean", *spread, ""))
    return [
        "## Confirmations: the same settings under other seeds",
        _table(("seed", *evidence.objectives, "failed"), rows),
    ]


def _origins(evidence: Evidence) -> list[tuple[str, str]]:
    rows = [("seed", str(evidence.seed)), ("ZeRO-3 workers", str(evidence.workers))]
    rows.append(("data digest (sha256)", evidence.data_digest or "the data can no longer be read"))
    rows += [(f"data: {key}", str(value)) for key, value in evidence.data.items() if value is not None]
    rows += [(f"{key} ({evidence.versions_when})", value) for key, value in evidence.versions.items()]
    return rows


def _how_to_reproduce(evidence: Evidence) -> list[str]:
    trial = evidence.trial.partition("@")[0]
    return [
        "## How to reproduce",
        (
            "With the sweep's folder, or the MLflow server that holds it, and the same data; the command says"
            " whether the result is identical:"
        ),
        f"```bash\nlethe reproduce {evidence.sweep} {trial}\n```",
        "Everything above is in `lethe_evidence.json` for programs.",
    ]


def _of_part(metrics: Mapping[str, float], part: str) -> dict[str, float]:
    return {
        key.removeprefix(f"{part}/"): value for key, value in metrics.items() if key.startswith(f"{part}/")
    }


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return Table(columns(*head), rows).markdown()
