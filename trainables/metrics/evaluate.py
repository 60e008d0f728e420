"""Evaluation: computes every metric that the data allows, on all ranks, with equal results on every rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.data.examples import Benchmark, EvaluationPart
from trainables.metrics.aggregates import Items, aggregate_sets, with_reference
from trainables.metrics.choices import score_choices
from trainables.metrics.closed_world_mass import aggregate_questions, score_questions
from trainables.metrics.example_sets import MAX_NEW_TOKENS, score_sets
from trainables.metrics.scoring import Scorer


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics by name, and the items they were computed from.

    Attributes:
        metrics: Values by name: `forget_true_mass` from `evaluate`, `validation/forget_true_mass` from
            `evaluate_parts`.
        items: One `Items` from `evaluate`, one `Items` per part from `evaluate_parts`.
    """

    metrics: Mapping[str, float]
    items: Mapping[str, Any]


def evaluate_parts(
    scorer: Scorer,
    benchmark: Benchmark,
    parts: Sequence[str] = ("validation", "test"),
    *,
    baseline: Mapping[str, float] | None = None,
    retrained_items: Mapping[str, Items] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> EvaluationResult:
    """Evaluate an opened model on the named parts of a benchmark.

    Args:
        scorer: The opened model.
        benchmark: The benchmark that holds the items.
        parts: `validation`, `test` or both.
        baseline: Metrics of the original model; see `aggregate_parts`.
        retrained_items: Items of the retrained model by part; see `aggregate_parts`.
        max_new_tokens: Longest generated answer in tokens.

    Returns:
        Metrics with keys such as `validation/utility`, and items by part; equal on every rank. Ranks: all.
    """
    items = {
        name: score_part(scorer, benchmark.parts[name], (retrained_items or {}).get(name), max_new_tokens)
        for name in parts
    }
    return EvaluationResult(aggregate_parts(items, baseline, retrained_items), items)


def aggregate_parts(
    items: Mapping[str, Items],
    baseline: Mapping[str, float] | None = None,
    retrained_items: Mapping[str, Items] | None = None,
) -> dict[str, float]:
    """Aggregate items by part into metrics with keys such as `validation/utility`.

    Args:
        items: The results of `score_part` by part.
        baseline: Metrics of the original model with keys such as `validation/forget_rephrased_mass`, for
            `forget_squeeze`.
        retrained_items: Items of the retrained model by part, for the metrics that compare with it.
    """
    metrics: dict[str, float] = {}
    for name, found in items.items():
        # `aggregate` works on one part, whose metrics have no prefix.
        own = {
            key.removeprefix(f"{name}/"): value
            for key, value in (baseline or {}).items()
            if key.startswith(f"{name}/")
        }
        metrics |= {
            f"{name}/{key}": value
            for key, value in aggregate(found, own, (retrained_items or {}).get(name)).items()
        }
    return metrics


def evaluate(
    scorer: Scorer,
    part: EvaluationPart,
    *,
    baseline: Mapping[str, float] | None = None,
    retrained_items: Items | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> EvaluationResult:
    """Evaluate one part.

    Args:
        scorer: The opened model.
        part: Closed-world questions, sets of examples, multiple-choice questions, or any of them.
        baseline: Metrics of the original model on this part, for `forget_squeeze`.
        retrained_items: Items of the retrained model on this part, for the metrics that compare with it.
        max_new_tokens: Longest generated answer in tokens.

    Returns:
        Metrics and items, equal on every rank. Ranks: all.
    """
    items = score_part(scorer, part, retrained_items, max_new_tokens)
    return EvaluationResult(aggregate(items, baseline, retrained_items), items)


def score_part(
    scorer: Scorer,
    part: EvaluationPart,
    retrained_items: Items | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> dict[str, list[dict[str, Any]]]:
    """Score one part; returns its items by set, `questions` for the closed world.

    The arguments are those of `evaluate`. Ranks: all.
    """
    items: dict[str, list[dict[str, Any]]] = {}
    # Items are sorted by id, since the order after a gather depends on the number of ranks, and so would the
    # last digits of a mean.
    if part.questions:
        items["questions"] = sorted(
            scorer.gather(score_questions(scorer, part.questions)), key=lambda item: item["id"]
        )
    if any(part.sets.values()):
        items |= with_reference(score_sets(scorer, part.sets, max_new_tokens), retrained_items)
    for name, questions in part.choices.items():
        items[name] = sorted(scorer.gather(score_choices(scorer, questions)), key=lambda item: item["id"])
    return items


def aggregate(
    items: Items, baseline: Mapping[str, float] | None = None, retrained_items: Items | None = None
) -> dict[str, float]:
    """Compute the metrics of one part from its items alone; the arguments are those of `evaluate`."""
    sets = {name: members for name, members in items.items() if name != "questions"}
    questions = items.get("questions", ())
    metrics = (
        aggregate_questions(questions, baseline, (retrained_items or {}).get("questions", ()))
        if questions
        else {}
    )
    # The closed world and example sets have no metric name in common, so neither overwrites the other.
    return metrics | aggregate_sets(sets, retrained_items)
