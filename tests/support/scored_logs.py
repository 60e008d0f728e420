"""Evaluation logs in OpenUnlearning's form, small enough to be aggregated by hand. Their own aggregates are
nonsense on purpose."""

import json
import math

from tests.support.places import SHARED

REFERENCE_LOGS = SHARED / "data/reference_logs"
MODEL = "tofu_Llama-3.2-1B-Instruct"
SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
WITHOUT_LOGS = "no published logs at ../shared/data/reference_logs"
NONSENSE = 123.0


def published(folder):
    """Path of a published log: `retain90`, or `forget10` for the full model evaluated on it."""
    return (
        REFERENCE_LOGS
        / (f"{MODEL}_full/evals_{folder}" if folder in SPLITS else f"{MODEL}_{folder}")
        / "TOFU_EVAL.json"
    )


def metric(field, *values):
    """One metric whose items have one field."""
    return {
        "agg_value": NONSENSE,
        "value_by_index": {str(index): {field: value} for index, value in enumerate(values)},
    }


def answers(*f1):
    """Generated answers with their ROUGE; the recall is another number than the f1."""
    scores = [
        {"rouge1_recall": 1.0, "rougeL_f1": value, "rougeL_recall": 1 - value, "generation": "東京 🙂"}
        for value in f1
    ]
    return {
        "agg_value": NONSENSE,
        "value_by_index": {str(index): score for index, score in enumerate(scores)},
    }


def attack(forget, holdout):
    """A membership attack with its scores per split."""
    return {
        "forget": metric("score", *forget),
        "holdout": metric("score", *holdout),
        "auc": NONSENSE,
        "agg_value": NONSENSE,
    }


def muse_log():
    """MUSE: VerbMem .2, KnowMem .375 and .7, ES .75, EM .25 (one item without tokens), Min-K .875."""
    return {
        "forget_knowmem_ROUGE": answers(0.5, 0.25),
        "retain_knowmem_ROUGE": answers(0.6, 0.8),
        "forget_verbmem_ROUGE": answers(0.1, 0.3),
        "extraction_strength": metric("score", 0.5, 1.0),
        "exact_memorization": metric("score", 0.25, None),
        "mia_min_k": attack([1.0, 2.0], [2.0, 3.0]),
        "mia_zlib": attack([0.5, 0.5], [0.5, 0.5]),
        "privleak": {"agg_value": NONSENSE},
    }


def retrained_muse_log():
    """The retrained model: Min-K .5."""
    return muse_log() | {"mia_min_k": attack([2.0, 2.0], [2.0, 2.0])}


def losses(*values):
    """Probabilities and losses that belong together; lists for several answers to one question."""

    def item(loss):
        many = isinstance(loss, list)
        return {"prob": [math.exp(-value) for value in loss] if many else math.exp(-loss), "avg_loss": loss}

    return {
        "agg_value": NONSENSE,
        "value_by_index": {str(index): item(loss) for index, loss in enumerate(values)},
    }


def tofu_log():
    """A part of a TOFU log: truth ratios 1/2 and 2 on the forget set, right answers at 1/2 and 1/4."""
    half, quarter = math.log(2), math.log(4)
    return {
        "forget_Q_A_Prob": losses(half, quarter),
        "forget_Q_A_PARA_Prob": losses(half, quarter),
        "forget_Q_A_PERT_Prob": losses([quarter, quarter], [half, half]),
        "forget_truth_ratio": metric("score", 0.5, 2.0),
        "forget_quality": {"agg_value": NONSENSE},
        "model_utility": {"agg_value": NONSENSE},
    }


def write(path, contents):
    """A file with these contents; returns its path."""
    path.write_text(json.dumps(contents))
    return path
