"""Measures all metrics of a model, and the reference log-probabilities of the forget set."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.trial_settings import EngineSettings, TrialSettings
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.engine.zero3_engine import Engine, Weights
from trainables.generation.inference import Logps, answer_logps, inference
from trainables.metrics.evaluate import aggregate_parts, score_part
from trainables.metrics.fluency import add_fluency, add_perplexity
from trainables.metrics.gradient_norm import add_gradient_norms
from trainables.probes.probing import probe


@dataclass(frozen=True)
class Measurement:
    """The measurement of one model.

    Attributes:
        metrics: Metrics by part and name, such as `test/utility`.
        items: Part -> set -> items, each with its scores and the model's answer.
        leaks: Answers that reveal a fact; empty without probes.
        facts: Number of facts that were probed.
    """

    metrics: Mapping[str, float]
    items: Mapping[str, Any]
    leaks: Sequence[Mapping[str, Any]] = ()
    facts: int = 0


def measure(
    engine: Engine,
    data: EncodedBenchmark,
    trial: TrialSettings,
    parts: tuple[str, ...],
    evaluation: EvaluationSettings,
    *,
    weights: Weights = "policy",
    original: Mapping[str, Any] | None = None,
    retrained: Mapping[str, Any] | None = None,
) -> Measurement:
    """Measure all metrics that the data allows. Ranks: all.

    Args:
        engine: Engine that holds the model.
        data: The encoded benchmark.
        trial: Settings under which the policy was trained; those of its engine hold for the evaluation too.
        parts: Names of the parts to measure.
        evaluation: Settings of the metrics and probes.
        weights: Which weights are measured: the policy's, or the pristine ones.
        original: Measurement of the original model as JSON, for metrics that compare with it.
        retrained: Measurement of the retrained model as JSON, for metrics that compare with it.

    Returns:
        The measurement, equal on every rank.
    """
    settings = trial.engine
    retrained_items = retrained["items"] if retrained else {}
    sources = {name: data.benchmark.parts[name] for name in parts}
    with inference(engine, settings, weights) as model:
        items = {name: score_part(model, part, retrained_items.get(name)) for name, part in sources.items()}
        for name, part in sources.items():
            if evaluation.gradient_norm:
                add_gradient_norms(model, engine.plain_model(weights), part, items[name])
            if evaluation.fluency == "gibberish":
                add_fluency(model, evaluation.gibberish_model, items[name], part)
    if evaluation.fluency == "perplexity":
        # The pristine model rates the answers, whichever weights gave them.
        with inference(engine, settings, "pristine") as model:
            for name, part in sources.items():
                add_perplexity(model, part, items[name])
    metrics = aggregate_parts(items, original["metrics"] if original else None, retrained_items)
    if not evaluation.probes:
        return Measurement(metrics, items)
    probed = probe(engine, data, parts, evaluation, evaluation.probes, trial, weights)
    return Measurement(metrics | probed.metrics, items, probed.leaks, probed.facts)


def reference_logp(engine: Engine, data: EncodedBenchmark, settings: EngineSettings) -> dict[str, Logps]:
    """Compute the log-probabilities of the forget responses under the pristine weights. Ranks: all.

    Returns:
        Log-probabilities in nats by example id, one for each token of the response, equal on every rank.
    """
    mine = list(data.forget[engine.rank :: engine.world_size])
    with inference(engine, settings, "pristine") as model:
        logp = answer_logps(model, mine, at_most=math.ceil(len(data.forget) / engine.world_size))
    return dict(engine.gather([(item.id, value) for item, value in zip(mine, logp, strict=True)]))
