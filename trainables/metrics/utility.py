"""Aggregates over metrics: harmonic means that one bad component pulls to zero."""

import math
from collections.abc import Mapping, Sequence

UTILITY_SETS = ("retain", "real_authors", "world_facts")
UTILITY_PARTS = ("probability", "rouge_l", "truth_ratio")


def harmonic_mean(values: Sequence[float]) -> float:
    """n / sum(1/v); 0 when any value is 0, NaN when any is NaN.

    Args:
        values: At least one, each in [0, 1] up to rounding (a value below 0 counts as 0).
    """
    if any(math.isnan(value) for value in values):
        return math.nan
    if min(values) <= 0:
        return 0.0
    return len(values) / math.fsum(1 / value for value in values)


def model_utility(metrics: Mapping[str, float]) -> float | None:
    """Harmonic mean of probability, ROUGE-L recall and truth ratio over the retain, real-authors and world-facts sets.

    Args:
        metrics: Aggregated metrics by name, such as `retain_probability`; probabilities of real authors and world facts are those
            normalised over the options.

    Returns:
        The published nine-part mean where all of it was evaluated, otherwise the mean of the parts that exist; None without a
        retain set.

    Source: TOFU (arXiv 2401.06121).
    """
    if "retain_probability" not in metrics:
        return None
    names = [f"{name}_{part}" for name in UTILITY_SETS for part in UTILITY_PARTS]
    return harmonic_mean([metrics[name] for name in names if name in metrics])


def agg(metrics: Mapping[str, float]) -> dict[str, float]:
    """The paper's `util` = HM(model utility, fluency) and `agg` = HM(mem, util), where their parts are there.

    Source: BS section 5.
    """
    if not {"model_utility", "fluency"} <= metrics.keys():
        return {}
    util = harmonic_mean([metrics["model_utility"], metrics["fluency"]])
    return {"util": util} | ({"agg": harmonic_mean([metrics["mem"], util])} if "mem" in metrics else {})


def mem(extraction_strength_ou: float, exact_memorization: float, paraphrase_probability: float | None, truth_ratio: float | None) -> float:
    """The paper's Mem: high when the forget set is forgotten in every sense that was measured.

    Args:
        extraction_strength_ou: Of the forget set, with OU's floor: published values of Mem are computed from it.
        exact_memorization: Of the forget set.
        paraphrase_probability: Mean probability of paraphrased answers; None where there are none.
        truth_ratio: mean(p_c / (p_c + p_w)); None where there are no wrong answers.

    Returns:
        HM(1 - ES, 1 - EM, 1 - ParaProb, 1 - TR) over the parts that exist.

    Source: OU (arXiv 2506.12618), BS.
    """
    parts = [extraction_strength_ou, exact_memorization, paraphrase_probability, truth_ratio]
    return harmonic_mean([1 - part for part in parts if part is not None])
