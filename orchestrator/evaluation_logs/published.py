"""Recomputes OpenUnlearning's aggregates from per-item values, each by its published definition.

Source: method.md section 4; OpenUnlearning (arXiv 2506.12618). Every aggregate of the published TOFU logs is
reproduced to within 1e-14.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from orchestrator.evaluation_logs.evaluation_log import EvaluationLog
from search_spaces.user_errors import UserError
from trainables.metrics.aggregates import harmonic_mean
from trainables.metrics.membership import auc, privleak
from trainables.metrics.truth_ratio import OU_EPSILON, forget_quality, forget_truth_ratio, other_truth_ratio

SPLITS = ("forget", "holdout")
FORGET_RATIOS = ("forget_truth_ratio", "forget_Truth_Ratio")
"""Names of the forget set's truth ratio in different versions of OpenUnlearning."""
FLOAT32_MEANS = ("mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm")
"""Attacks whose scores OpenUnlearning averages in float32 within a split; others are averaged in float64."""
RETRAINED_AUC = 0.5
"""AUC with which PrivLeak is compared if there is no retrained model: an attack at chance level."""
GIVE_RETRAINED = "give --retrained, the log of the model retrained without the forget set"


@dataclass(frozen=True)
class Recomputed:
    """One recomputed aggregate."""

    value: float | None
    """The value; None if it cannot be computed."""
    note: str = ""
    """Why the value cannot be computed, or what it was compared with."""


def published_aggregates(log: EvaluationLog, retrained: EvaluationLog | None) -> dict[str, Recomputed]:
    """Recomputes every metric of a log from the values of its items.

    Args:
        log: The log to recompute.
        retrained: The retrained model's log on the same items, for forget quality and PrivLeak.

    Returns:
        Published name -> aggregate.

    Raises:
        UserError: Per-item values are missing or malformed, or the two logs are of different splits.
    """
    if retrained is not None:
        _check_same_split(log, retrained)
    return {name: _recompute(log, name, retrained) for name in log.entries}


def split_means(log: EvaluationLog) -> dict[str, dict[str, float]]:
    """Computes the mean score of every membership inference attack, on the forget and on the holdout items.

    Returns:
        Attack -> split -> mean score.
    """
    return {
        name: {split: _mean_score(name, _scores(log, f"{name}.{split}")) for split in SPLITS}
        for name in log.entries
        if name.startswith("mia_")
    }


def _mean_score(name: str, scores: list[float]) -> float:
    # A score beyond the range of float32 becomes infinite, as in OpenUnlearning, and so does the mean.
    with np.errstate(over="ignore"):
        return float(np.mean(np.asarray(scores, dtype=np.float32 if name in FLOAT32_MEANS else np.float64)))


def _recompute(log: EvaluationLog, name: str, retrained: EvaluationLog | None) -> Recomputed:
    if name in DERIVED:
        return DERIVED[name](log, retrained)
    measure = _measure_of(name)
    return (
        Recomputed(None, "its definition is not implemented")
        if measure is None
        else Recomputed(measure(log, name))
    )


def _scores(log: EvaluationLog, place: str) -> list[float]:
    return list(log.column(place, "score").values())


def _mean_of(field: str) -> "Measure":
    return lambda log, name: float(np.mean(list(log.column(name, field).values())))


def _forget_ratio(log: EvaluationLog, name: str) -> float:
    return forget_truth_ratio(_scores(log, name), epsilon=OU_EPSILON)


def _other_ratio(log: EvaluationLog, name: str) -> float:
    return other_truth_ratio(_scores(log, name))


def _auc(log: EvaluationLog, name: str) -> float:
    forget, holdout = (_scores(log, f"{name}.{split}") for split in SPLITS)
    return auc(forget, holdout)


Measure = Callable[[EvaluationLog, str], float]
"""Computes an aggregate from a log and the name of the metric."""

MEASURES: tuple[tuple[str, Measure], ...] = (
    ("mia_*", _auc),
    *((name, _forget_ratio) for name in FORGET_RATIOS),
    ("*_Truth_Ratio", _other_ratio),
    ("*_Prob", _mean_of("prob")),
    ("*_Prob_normalised", _mean_of("prob")),
    # MUSE's verbatim and knowledge memorisation.
    ("*mem_ROUGE", _mean_of("rougeL_f1")),
    ("*_ROUGE", _mean_of("rougeL_recall")),
    ("*extraction_strength", _mean_of("score")),
    ("*exact_memorization", _mean_of("score")),
)
"""Pattern of metric names -> aggregate over the metric's own items; the first matching pattern counts."""


UTILITY: tuple[tuple[str, Measure], ...] = (
    ("retain_Q_A_Prob", _mean_of("prob")),
    ("retain_Q_A_ROUGE", _mean_of("rougeL_recall")),
    ("retain_Truth_Ratio", _other_ratio),
    ("ra_Q_A_Prob_normalised", _mean_of("prob")),
    ("ra_Q_A_ROUGE", _mean_of("rougeL_recall")),
    ("ra_Truth_Ratio", _other_ratio),
    ("wf_Q_A_Prob_normalised", _mean_of("prob")),
    ("wf_Q_A_ROUGE", _mean_of("rougeL_recall")),
    ("wf_Truth_Ratio", _other_ratio),
)
"""The nine components of model utility, which is their harmonic mean."""


def _measure_of(name: str) -> Measure | None:
    return next((measure for pattern, measure in MEASURES if fnmatchcase(name, pattern)), None)


def _model_utility(log: EvaluationLog, retrained: EvaluationLog | None) -> Recomputed:
    missing = [name for name, _ in UTILITY if not log.holds(name)]
    if missing:
        return Recomputed(None, f"the log has no {', '.join(missing)}")
    return Recomputed(harmonic_mean([measure(log, name) for name, measure in UTILITY]))


def _forget_quality(log: EvaluationLog, retrained: EvaluationLog | None) -> Recomputed:
    ratio = next((name for name in FORGET_RATIOS if log.holds(name)), None)
    if ratio is None:
        return Recomputed(None, f"the log has no {FORGET_RATIOS[0]}")
    if retrained is None:
        return Recomputed(None, GIVE_RETRAINED)
    return Recomputed(forget_quality(_scores(log, ratio), _scores(retrained, ratio)))


def _privleak(log: EvaluationLog, retrained: EvaluationLog | None) -> Recomputed:
    if not log.holds("mia_min_k"):
        return Recomputed(None, "the log has no mia_min_k")
    if retrained is None:
        return Recomputed(
            privleak(_auc(log, "mia_min_k"), RETRAINED_AUC), f"against an AUC of .5: {GIVE_RETRAINED}"
        )
    return Recomputed(privleak(_auc(log, "mia_min_k"), _auc(retrained, "mia_min_k")))


def _check_same_split(log: EvaluationLog, retrained: EvaluationLog) -> None:
    # Logs do not name their split, but TOFU's splits have different numbers of items.
    for place in (*FORGET_RATIOS, *(f"mia_min_k.{split}" for split in SPLITS)):
        if not (log.holds(place) and retrained.holds(place)):
            continue
        ours, theirs = (len(_scores(source, place)) for source in (log, retrained))
        if ours != theirs:
            raise UserError(
                f"the retrained model's log is of another split: it has {theirs} items where {log.file} has"
                f" {ours}",
                file=retrained.file,
                key=place,
                remedy=(
                    "give the log of the model retrained without the same forget set: retain90 goes with"
                    " forget10, retain95 with forget05, retain99 with forget01"
                ),
            )


DERIVED: Mapping[str, Callable[[EvaluationLog, EvaluationLog | None], Recomputed]] = {
    "forget_quality": _forget_quality,
    "model_utility": _model_utility,
    "privleak": _privleak,
}
"""Metrics computed from the items of other metrics, of the log and of the retrained model's log."""
