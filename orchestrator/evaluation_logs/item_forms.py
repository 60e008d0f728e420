"""Converts per-item values between OpenUnlearning's logs and Lethe's evaluation.

OpenUnlearning lists items by metric, Lethe lists them by set. A published log converted to Lethe's form gives
Lethe's metrics; a measurement of Lethe converted to the published form is recomputed like a published log.
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
"""A published metric and the field of its items."""


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
"""Set of Lethe -> field of its items -> the places in a published log that have the same meaning.

When a log is read, the first existing place is used; when a log is built, all places are filled.
"""

RATIOS = {
    "forget": ("forget_truth_ratio", "forget_Q_A_PARA_Prob", "forget_Q_A_PERT_Prob"),
    "retain": ("retain_Truth_Ratio", "retain_Q_A_PARA_Prob", "retain_Q_A_PERT_Prob"),
    "real_authors": ("ra_Truth_Ratio", "ra_Q_A_Prob", "ra_Q_A_PERT_Prob"),
    "world_facts": ("wf_Truth_Ratio", "wf_Q_A_Prob", "wf_Q_A_PERT_Prob"),
}
"""Set -> the published metrics of its truth ratio, and of the losses of right and of wrong answers."""

NORMALISED = {"real_authors": "ra_Q_A_Prob_normalised", "world_facts": "wf_Q_A_Prob_normalised"}
"""Set -> the published metric of the probability among the answer options: the set's `probability`."""


def items_of_log(log: EvaluationLog) -> dict[str, list[dict[str, Any]]]:
    """Converts a published log to Lethe's items.

    Truth ratios and normalised probabilities are recomputed from the losses, without the epsilons of the
    published definitions.

    Returns:
        Set -> items.

    Raises:
        UserError: Per-item values are missing or malformed.
    """
    return {name: items for name in PLACES if (items := _items(_columns(log, name)))}


def _columns(log: EvaluationLog, name: str) -> dict[str, dict[str, float]]:
    columns = {}
    for field, places in PLACES[name].items():
        place = next(((metric, published) for metric, published in places if log.holds(metric)), None)
        if place is not None:
            columns[field] = log.column(*place)
    # The values of `forget_truth_ratio` in the log contain the published epsilon, so they are not used.
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
    # Lists, because an item has several wrong answers. Only items with both kinds of answers have a ratio.
    correct, others = log.lists(right, "avg_loss"), log.lists(wrong, "avg_loss")
    return {index: combine(losses, others[index]) for index, losses in correct.items() if index in others}


def _items(columns: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    # A dict keeps the order of the log, which a set would lose.
    indices = dict.fromkeys(chain.from_iterable(columns.values()))
    return [
        {"id": index, **{field: column.get(index) for field, column in columns.items()}} for index in indices
    ]


def log_of_items(file: str, sets: Items) -> EvaluationLog:
    """Converts Lethe's items to the form of a published log, with all metrics that the items allow.

    Sets that OpenUnlearning does not have are left out.

    Args:
        file: Name of the source file, for messages.
        sets: Items by set.
    """
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
    # In these sets our `probability` is the normalised one. The published plain probability follows from the
    # loss.
    for metric in NORMALISED.values():
        plain = metric.removesuffix("_normalised")
        for item in entries.get(plain, {PER_ITEM: {}})[PER_ITEM].values():
            item["prob"] = probability(item["avg_loss"])
    # An attack compares two splits: with one of them missing there is nothing to compute.
    entries = {
        metric: entry
        for metric, entry in entries.items()
        if not metric.startswith("mia_") or set(SPLITS) <= entry.keys()
    }
    # Metrics without items of their own need an empty entry, so that `published_aggregates` computes them.
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
