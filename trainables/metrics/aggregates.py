"""Aggregates the items of example sets into metrics, and metrics into harmonic means.

Free of torch, since published evaluation logs are aggregated by the same functions.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from trainables.metrics.membership import auc, privleak, reference_score
from trainables.metrics.truth_ratio import (
    forget_quality,
    forget_truth_ratio,
    log10_p,
    other_truth_ratio,
    paper_truth_ratio,
)

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
"""Sets whose items membership attacks compare: possible members, and text that no model was trained on."""

Items = Mapping[str, Sequence[Mapping[str, Any]]]
"""Per-item results by set name (`questions` for the closed world), sorted by id, as plain values for JSON."""


def aggregate_sets(sets: Items, retrained_items: Items | None = None) -> dict[str, float]:
    """Compute the metrics of all sets from their items.

    Args:
        sets: Items by set name, as `score_sets` and `score_choices` give them. A field that an item lacks or
            that is None is left out of every mean.
        retrained_items: Items of the retrained model, for `forget_quality` and `privleak`.

    Returns:
        `<set>_<field>` means, `<set>_truth_ratio`, `forget_quality`, `forget_quality_log10`, `model_utility`,
        `mem`, the AUC of each membership attack, `privleak` and `privleak_abs`, `fluency`,
        `generated_perplexity`, `util` and `agg`, each where the data allows it.
    """
    metrics: dict[str, float] = {}
    for name, items in sets.items():
        metrics |= {
            f"{name}_{field}": float(np.mean(values)) for field in MEANS if (values := _present(items, field))
        }
        ratios = _present(items, "truth_ratio")
        if ratios:
            # On the forget set a ratio near 1 is good (wrong answers as likely as the right one), elsewhere
            # one near 0.
            aggregate: Callable[[Sequence[float]], float] = (
                forget_truth_ratio if name == "forget" else other_truth_ratio
            )
            metrics[f"{name}_truth_ratio"] = aggregate(ratios)
    utility = model_utility(metrics)
    if utility is not None:
        metrics["model_utility"] = utility
    ratios = _present(sets.get("forget", ()), "truth_ratio")
    # Forget quality compares two samples of ratios, so it needs the retrained model's ratios on the same set.
    retrained = _present((retrained_items or {}).get("forget", ()), "truth_ratio")
    if ratios and retrained:
        metrics["forget_quality"] = forget_quality(ratios, retrained)
        metrics["forget_quality_log10"] = log10_p(metrics["forget_quality"])
    # Mem takes the floored extraction strength, as published: the exact one may be 0, which published values
    # never are.
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
    """Average fluency and perplexity of the generated answers that were judged."""
    items = [item for members in sets.values() for item in members]
    clean, nll = _present(items, "fluency"), _present(items, "generated_nll_nats")
    metrics = {"fluency": float(np.mean(clean))} if clean else {}
    # The exponential of the mean over answers, so that one gibberish answer does not dominate the perplexity.
    return metrics | ({"generated_perplexity": float(np.exp(np.mean(nll)))} if nll else {})


def aggregate_attacks(sets: Items, retrained_items: Items | None = None) -> dict[str, float]:
    """Compute the AUC of every membership attack that the items have scores for, and PrivLeak.

    Args:
        sets: Items by set name; attacks compare the forget with the holdout items.
        retrained_items: Items of the retrained model, for PrivLeak.
    """
    metrics = _attack_aucs(sets)
    retrained = _attack_aucs(retrained_items or {})
    if "mia_min_k" in metrics and "mia_min_k" in retrained:
        metrics["privleak"] = privleak(metrics["mia_min_k"], retrained["mia_min_k"])
        # PrivLeak is best at 0 and may err to both sides: a search that minimises needs its absolute value.
        metrics["privleak_abs"] = abs(metrics["privleak"])
    return metrics


def _attack_aucs(sets: Items) -> dict[str, float]:
    scores = {
        metric: [_present(sets.get(name, ()), field) for name in ATTACKED]
        for metric, field in ATTACKS.items()
    }
    return {
        metric: auc(forget, holdout) for metric, (forget, holdout) in scores.items() if forget and holdout
    }


def with_reference(sets: Items, retrained_items: Items | None) -> dict[str, list[dict[str, Any]]]:
    """Return copies of the items with the score of the Reference attack.

    The items stay without it where the retrained model was not measured on the forget and holdout items.
    """
    retrained_nll = {
        name: {item["id"]: item["nll_nats"] for item in (retrained_items or {}).get(name, ())}
        for name in ATTACKED
    }
    # Copies, since the caller's items may be those of another measurement that is kept.
    scored = {name: [dict(item) for item in items] for name, items in sets.items()}
    if all(retrained_nll.values()) and all(scored.get(name) for name in ATTACKED):
        for name in ATTACKED:
            for item in scored[name]:
                item["reference_nats"] = reference_score(item["nll_nats"], retrained_nll[name][item["id"]])
    return scored


def _present(items: Iterable[Mapping[str, Any]], field: str) -> list[float]:
    return [value for item in items if (value := item.get(field)) is not None]


UTILITY_SETS = ("retain", "real_authors", "world_facts")
UTILITY_PARTS = ("probability", "rouge_l", "truth_ratio")


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean n / sum(1/v); 0 when any value is 0, NaN when any is NaN.

    Args:
        values: At least one value, each in [0, 1] up to rounding (a value below 0 counts as 0).
    """
    # NaN first: what `min` makes of a NaN depends on the order of the values.
    if any(math.isnan(value) for value in values):
        return math.nan
    if min(values) <= 0:
        return 0.0
    return len(values) / math.fsum(1 / value for value in values)


def model_utility(metrics: Mapping[str, float]) -> float | None:
    """Model utility: harmonic mean over three sets of probability, ROUGE-L recall and truth ratio.

    The sets are the retain set, real authors and world facts.

    Args:
        metrics: Aggregated metrics by name, such as `retain_probability`; probabilities of real authors and
            world facts are those normalised over the options.

    Returns:
        The published nine-part mean where all of it was evaluated, otherwise the mean of the parts that
        exist; None without a retain set.

    Source: TOFU (arXiv 2401.06121).
    """
    if "retain_probability" not in metrics:
        return None
    # Data with a retain set alone (own files, subsets) gets the mean of the parts it has, not no utility at
    # all.
    names = [f"{name}_{part}" for name in UTILITY_SETS for part in UTILITY_PARTS]
    return harmonic_mean([metrics[name] for name in names if name in metrics])


def agg(metrics: Mapping[str, float]) -> dict[str, float]:
    """Compute the paper's `util` = HM(model utility, fluency) and `agg` = HM(mem, util) if their parts exist.

    Source: BS section 5.
    """
    if not {"model_utility", "fluency"} <= metrics.keys():
        return {}
    util = harmonic_mean([metrics["model_utility"], metrics["fluency"]])
    return {"util": util} | ({"agg": harmonic_mean([metrics["mem"], util])} if "mem" in metrics else {})


def mem(
    extraction_strength_ou: float,
    exact_memorization: float,
    paraphrase_probability: float | None,
    truth_ratio: float | None,
) -> float:
    """Compute the paper's Mem: high when the forget set is forgotten in every sense that was measured.

    Args:
        extraction_strength_ou: Extraction strength of the forget set with OU's floor, from which published
            values of Mem are computed.
        exact_memorization: Exact memorisation of the forget set.
        paraphrase_probability: Mean probability of paraphrased answers; None for data without paraphrases.
        truth_ratio: mean(p_c / (p_c + p_w)); None for data without wrong answers.

    Returns:
        HM(1 - ES, 1 - EM, 1 - ParaProb, 1 - TR) over the parts that exist.

    Source: OU (arXiv 2506.12618), BS.
    """
    parts = [extraction_strength_ou, exact_memorization, paraphrase_probability, truth_ratio]
    return harmonic_mean([1 - part for part in parts if part is not None])
