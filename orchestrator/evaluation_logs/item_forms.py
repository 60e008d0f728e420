"""Items in two forms: lists by published metric, as OpenUnlearning logs them, and items by set, as our
evaluation gives them.

Turned into ours, a published log gives our metrics; turned into theirs, our measurements are recomputed like
published logs.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from orchestrator.evaluation_logs.evaluation_log import PER_ITEM, EvaluationLog
from orchestrator.evaluation_logs.published import SPLITS, UTILITY
from trainables.metrics.aggregates import ATTACKS, Items
from trainables.metrics.likelihood import probability
from trainables.metrics.truth_ratio import normalised_probability, truth_ratio

Place = tuple[str, str]
"""A published metric, and the field of its items."""


def _answered(prefix: str) -> dict[str, tuple[Place, ...]]:
    return {
        "nll_nats": ((f"{prefix}_Q_A_Prob", "avg_loss"),),
        "rouge_l": ((f"{prefix}_Q_A_ROUGE", "rougeL_recall"),),
    }


def _trained(prefix: str) -> dict[str, tuple[Place, ...]]:
    worded = {"probability": f"{prefix}_Q_A_Prob", "paraphrase_probability": f"{prefix}_Q_A_PARA_Prob"}
    return _answered(prefix) | {field: ((metric, "prob"),) for field, metric in worded.items()}


def _continued(metric: str) -> dict[str, tuple[Place, ...]]:
    return {"rouge_l_f1": ((metric, "rougeL_f1"),), "rouge_l": ((metric, "rougeL_recall"),)}


def _attacked(split: str) -> dict[str, tuple[Place, ...]]:
    return {field: ((f"{attack}.{split}", "score"),) for attack, field in ATTACKS.items()}


PLACES: Mapping[str, Mapping[str, tuple[Place, ...]]] = {
    "forget": {
        **_trained("forget"),
        **_attacked("forget"),
        "nll_nats": (("forget_Q_A_Prob", "avg_loss"), ("mia_loss.forget", "score")),
        "extraction_strength_ou": (("extraction_strength", "score"),),
        "exact_memorization": (("exact_memorization", "score"),),
    },
    "retain": _trained("retain"),
    "real_authors": _answered("ra"),
    "world_facts": _answered("wf"),
    "holdout": _attacked("holdout"),
    "verbmem": _continued("forget_verbmem_ROUGE"),
    "forget_knowmem": _continued("forget_knowmem_ROUGE"),
    "retain_knowmem": _continued("retain_knowmem_ROUGE"),
}
"""Where each field of each of our sets stands in a published log, with the same meaning; the first place that
is there is read."""

RATIOS = {
    "forget": ("forget_truth_ratio", "forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob"),
    "retain": ("retain_Truth_Ratio", "retain_Q_A_PARA_Prob", "retain_Q_A_PERT_Prob"),
    "real_authors": ("ra_Truth_Ratio", "ra_Q_A_Prob", "ra_Q_A_PERT_Prob"),
    "world_facts": ("wf_Truth_Ratio", "wf_Q_A_Prob", "wf_Q_A_PERT_Prob"),
}
"""The truth ratio of each set, and the losses of right and wrong answers that it is made from."""

NORMALISED = {"real_authors": "ra_Q_A_Prob_normalised", "world_facts": "wf_Q_A_Prob_normalised"}
"""Probability among the options, which is the `probability` of these sets."""


def items_of_log(log: EvaluationLog) -> dict[str, list[dict[str, Any]]]:
    """A published log as our items.

    Truth ratios and normalised probabilities are made anew from the losses, without the published epsilons.
    """
    return {name: items for name in PLACES if (items := _items(_columns(log, name)))}


def _columns(log: EvaluationLog, name: str) -> dict[str, dict[str, float]]:
    columns = {}
    for field, places in PLACES[name].items():
        place = next(((metric, published) for metric, published in places if log.holds(metric)), None)
        if place is not None:
            columns[field] = log.column(*place)
    _, right, wrong = RATIOS.get(name, ("", "", ""))
    if log.holds(right) and log.holds(wrong):
        columns["truth_ratio"] = _paired(log, right, wrong, truth_ratio)
        if name in NORMALISED:
            columns["probability"] = _paired(
                log, right, wrong, lambda correct, others: normalised_probability(correct[0], others)
            )
    return columns


def _paired(
    log: EvaluationLog, right: str, wrong: str, combine: Callable[[list[float], list[float]], float]
) -> dict[str, float]:
    correct, others = log.lists(right, "avg_loss"), log.lists(wrong, "avg_loss")
    return {index: combine(losses, others[index]) for index, losses in correct.items() if index in others}


def _items(columns: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    indices = dict.fromkeys(chain.from_iterable(columns.values()))
    return [
        {"id": index, **{field: column.get(index) for field, column in columns.items()}} for index in indices
    ]


def log_of_items(file: str, sets: Items) -> EvaluationLog:
    """Our items as a published log, which has the metrics that they allow. Sets that OpenUnlearning does not
    know are left out."""
    entries: dict[str, Any] = {}
    for name, fields in PLACES.items():
        more: dict[str, tuple[Place, ...]] = (
            {"truth_ratio": ((RATIOS[name][0], "score"),)} if name in RATIOS else {}
        )
        more |= {"probability": ((NORMALISED[name], "prob"),)} if name in NORMALISED else {}
        for field, places in {**fields, **more}.items():
            values = {
                item["id"]: value for item in sets.get(name, ()) if (value := item.get(field)) is not None
            }
            for metric, published in places if values else ():
                _put(entries, metric, published, values)
    for metric in NORMALISED.values():
        plain = metric.removesuffix("_normalised")
        for item in entries.get(plain, {PER_ITEM: {}})[PER_ITEM].values():
            item["prob"] = probability(item["avg_loss"])
    entries = {
        metric: entry
        for metric, entry in entries.items()
        if not metric.startswith("mia_") or set(SPLITS) <= entry.keys()
    }
    derived = {
        "forget_quality": "forget_truth_ratio" in entries,
        "model_utility": all(metric in entries for metric, _ in UTILITY),
        "privleak": "mia_min_k" in entries,
    }
    return EvaluationLog(file, entries | {metric: {} for metric, possible in derived.items() if possible})


def _put(entries: dict[str, Any], metric: str, field: str, values: Mapping[str, float]) -> None:
    entry = entries
    for key in metric.split("."):
        entry = entry.setdefault(key, {})
    items = entry.setdefault(PER_ITEM, {})
    for index, value in values.items():
        items.setdefault(index, {})[field] = value
