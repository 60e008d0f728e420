"""Recomputes all that one evaluation file allows: OpenUnlearning's aggregates and Lethe's metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.evaluation_logs.evaluation_log import EvaluationLog, evaluation_log, read_json
from orchestrator.evaluation_logs.item_forms import items_of_log, log_of_items
from orchestrator.evaluation_logs.published import (
    GIVE_RETRAINED,
    Recomputed,
    published_aggregates,
    split_means,
)
from search_spaces.catalogue.metric_catalogue import METRICS
from search_spaces.user_errors import UserError
from trainables.metrics.aggregates import Items, aggregate_sets

if TYPE_CHECKING:
    from orchestrator.evaluation_logs.measurement import Measurement


@dataclass(frozen=True)
class Scores:
    """The scores of one file. Names of a measurement start with the part: `test/forget_quality`."""

    published: Mapping[str, Recomputed]
    """OpenUnlearning's aggregates, one for each metric of the file."""
    splits: Mapping[str, Mapping[str, float]]
    """Attack -> split -> mean score of the membership inference attack."""
    ours: Mapping[str, float]
    """Lethe's metrics, by the names of the catalogue."""
    missing: Mapping[str, str]
    """Lethe's metrics that another input would add -> what must be given for them."""
    logged_published: Mapping[str, float | None] = field(default_factory=dict)
    """OpenUnlearning's aggregates as the file itself holds them, including splits (`mia_loss.forget`)."""
    logged_ours: Mapping[str, float] = field(default_factory=dict)
    """Values of Lethe's metrics in the file itself."""


def score(path: Path, retrained: Path | None) -> Scores:
    """Recomputes the aggregates of a file from the values of its items.

    Args:
        path: An evaluation log of OpenUnlearning, or a measurement of Lethe.
        retrained: The same kind of file for the retrained model, on the same items.

    Raises:
        UserError: A file does not exist, has another format, or the two files are of different items.
    """
    contents = read_json(path)
    beside = None if retrained is None else (retrained, read_json(retrained))
    measured = _is_measurement(contents)
    if beside is not None and _is_measurement(beside[1]) != measured:
        wanted = "a measurement of Lethe" if measured else "an evaluation log of OpenUnlearning"
        raise UserError(
            f"{path} is {wanted}, and this is not", file=retrained, key="--retrained", remedy=f"give {wanted}"
        )
    if not measured:
        return _of_log(evaluation_log(path, contents), None if beside is None else evaluation_log(*beside))
    # Imported here because it imports torch, which takes seconds: a log of OpenUnlearning needs no torch.
    from orchestrator.evaluation_logs.measurement import measurement

    return _of_measurement(measurement(path, contents), None if beside is None else measurement(*beside))


def _is_measurement(contents: Any) -> bool:
    return isinstance(contents, dict) and {"metrics", "items"} <= contents.keys()


def _of_log(log: EvaluationLog, retrained: EvaluationLog | None) -> Scores:
    published, splits = published_aggregates(log, retrained), split_means(log)
    ours = aggregate_sets(items_of_log(log), None if retrained is None else items_of_log(retrained))
    missing = _missing(ours)
    if "forget_extraction_strength_ou" in ours:
        # The floor cannot be removed: a logged value at the floor may have been anything below it.
        missing["forget_extraction_strength"] = (
            "OpenUnlearning's logs hold it with a floor of 1 / length only"
        )
    return Scores(published, splits, ours, missing, logged_published=_logged(log, splits))


def _of_measurement(measured: "Measurement", retrained: "Measurement | None") -> Scores:
    from trainables.metrics.evaluate import aggregate

    published: dict[str, Recomputed] = {}
    splits: dict[str, Mapping[str, float]] = {}
    ours: dict[str, float] = {}
    missing: dict[str, str] = {}
    for part, items in measured.parts.items():
        beside = None if retrained is None else _same_part(measured, retrained, part)
        log = log_of_items(measured.file, items)
        log_beside = None if beside is None or retrained is None else log_of_items(retrained.file, beside)
        metrics = aggregate(items, retrained_items=beside)
        published |= _within(part, published_aggregates(log, log_beside))
        splits |= _within(part, split_means(log))
        ours |= _within(part, metrics)
        missing |= _within(part, _missing(metrics))
    return Scores(published, splits, ours, missing, logged_ours=measured.metrics)


def _same_part(measured: "Measurement", retrained: "Measurement", part: str) -> Items:
    beside = retrained.parts.get(part)
    if beside is None:
        raise UserError(
            "the retrained model's measurement lacks a part",
            file=retrained.file,
            key=f"items.{part}",
            allowed=part,
        )
    # Ids are compared in order: on the same data both measurements list the same items alike.
    for name, items in measured.parts[part].items():
        if [item["id"] for item in items] != [item["id"] for item in beside.get(name, ())]:
            raise UserError(
                f"the retrained model was measured on other items than those of {measured.file}",
                file=retrained.file,
                key=f"items.{part}.{name}",
                value=f"{len(beside.get(name, ()))} items",
                allowed=f"the same {len(items)} items",
                remedy="give the measurement that belongs to the same data",
            )
    return beside


def _missing(ours: Mapping[str, float]) -> dict[str, str]:
    """Returns the metrics that a file of the retrained model would add, with that remedy."""
    possible = set()
    if "forget_truth_ratio" in ours:
        possible |= {"forget_quality", "forget_quality_log10"}
    if "mia_min_k" in ours:
        possible |= {"privleak", "privleak_abs"}
    return {name: GIVE_RETRAINED for name in METRICS if name in possible - ours.keys()}


def _logged(log: EvaluationLog, splits: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    places = [*log.entries, *(f"{name}.{split}" for name, means in splits.items() for split in means)]
    return {place: log.logged(place) for place in places}


def _within(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{part}/{name}": value for name, value in values.items()}
