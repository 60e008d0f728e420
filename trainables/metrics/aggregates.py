"""Metrics of sets of examples from their items. Torch-free: published logs are aggregated by the same functions as a policy's own items."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trainables.metrics.forget_quality import forget_quality, log10_p
from trainables.metrics.membership import auc, privleak, reference_score
from trainables.metrics.truth_ratio import forget_truth_ratio, other_truth_ratio, paper_truth_ratio
from trainables.metrics.utility import agg, mem, model_utility

MEANS = (
    "probability",
    "nll_nats",
    "rouge_l",
    "extraction_strength",
    "extraction_strength_ou",
    "exact_memorization",
    "paraphrase_probability",
    "rouge_l_f1",
    "accuracy",
)
"""Fields of a set's items whose metric is their plain mean."""

ATTACKS = {
    "mia_loss": "nll_nats",
    "mia_zlib": "zlib_nats",
    "mia_min_k": "min_k_nats",
    "mia_min_k_plus_plus": "min_k_plus_plus",
    "mia_reference": "reference_nats",
    "mia_gradient_norm": "gradient_norm",
}
"""Metric of each membership attack, and the field of forget and holdout items that is its score."""

ATTACKED = ("forget", "holdout")

Items = Mapping[str, Sequence[Mapping[str, Any]]]
"""Per-item results by set name (`questions` for the closed world), sorted by id; plain values, fit for JSON."""


def aggregate_sets(sets: Items, retrained_items: Items | None = None) -> dict[str, float]:
    """Metrics of all sets from their items.

    Args:
        sets: Items by set name, as `score_sets` and `score_choices` give them. A field that an item lacks or that is None counts nowhere.
        retrained_items: The same of the retrained model, for `forget_quality` and `privleak`.

    Returns:
        `<set>_<field>` means, `<set>_truth_ratio`, `forget_quality`, `forget_quality_log10`, `model_utility`, `mem`, the AUC of
        each membership attack, `privleak` and `privleak_abs`, `fluency`, `generated_perplexity`, `util` and `agg`, each where the data
        allows it.
    """
    metrics: dict[str, float] = {}
    for name, items in sets.items():
        metrics |= {f"{name}_{field}": float(np.mean(values)) for field in MEANS if (values := _present(items, field))}
        ratios = _present(items, "truth_ratio")
        if ratios:
            aggregate: Callable[[Sequence[float]], float] = forget_truth_ratio if name == "forget" else other_truth_ratio
            metrics[f"{name}_truth_ratio"] = aggregate(ratios)
    utility = model_utility(metrics)
    if utility is not None:
        metrics["model_utility"] = utility
    ratios = _present(sets.get("forget", ()), "truth_ratio")
    retrained = _present((retrained_items or {}).get("forget", ()), "truth_ratio")
    if ratios and retrained:
        metrics["forget_quality"] = forget_quality(ratios, retrained)
        metrics["forget_quality_log10"] = log10_p(metrics["forget_quality"])
    if {"forget_extraction_strength_ou", "forget_exact_memorization"} <= metrics.keys():
        metrics["mem"] = mem(
            metrics["forget_extraction_strength_ou"],
            metrics["forget_exact_memorization"],
            metrics.get("forget_paraphrase_probability"),
            paper_truth_ratio(ratios) if ratios else None,
        )
    metrics |= _fluency(sets)
    return metrics | agg(metrics) | aggregate_attacks(sets, retrained_items)


def _fluency(sets: Items) -> dict[str, float]:
    """How the answers about what is forgotten read, where they were judged."""
    items = [item for members in sets.values() for item in members]
    clean, nll = _present(items, "fluency"), _present(items, "generated_nll_nats")
    metrics = {"fluency": float(np.mean(clean))} if clean else {}
    return metrics | ({"generated_perplexity": float(np.exp(np.mean(nll)))} if nll else {})


def aggregate_attacks(sets: Items, retrained_items: Items | None = None) -> dict[str, float]:
    """Membership metrics: the AUC of every attack whose scores the forget and holdout items have, and PrivLeak.

    Args:
        sets: Items by set name.
        retrained_items: The same of the retrained model, for PrivLeak.
    """
    metrics = _attack_aucs(sets)
    retrained = _attack_aucs(retrained_items or {})
    if "mia_min_k" in metrics and "mia_min_k" in retrained:
        metrics["privleak"] = privleak(metrics["mia_min_k"], retrained["mia_min_k"])
        metrics["privleak_abs"] = abs(metrics["privleak"])
    return metrics


def _attack_aucs(sets: Items) -> dict[str, float]:
    scores = {metric: [_present(sets.get(name, ()), field) for name in ATTACKED] for metric, field in ATTACKS.items()}
    return {metric: auc(forget, holdout) for metric, (forget, holdout) in scores.items() if forget and holdout}


def with_reference(sets: Items, retrained_items: Items | None) -> dict[str, list[dict[str, Any]]]:
    """Items with the score of the Reference attack, where the retrained model was measured on the same forget and holdout items."""
    known = {name: {item["id"]: item["nll_nats"] for item in (retrained_items or {}).get(name, ())} for name in ATTACKED}
    scored = {name: [dict(item) for item in items] for name, items in sets.items()}
    if all(known.values()) and all(scored.get(name) for name in ATTACKED):
        for name in ATTACKED:
            for item in scored[name]:
                item["reference_nats"] = reference_score(item["nll_nats"], known[name][item["id"]])
    return scored


def _present(items: Iterable[Mapping[str, Any]], field: str) -> list[float]:
    return [value for item in items if (value := item.get(field)) is not None]
