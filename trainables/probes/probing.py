"""Runs the probes of a model: questions, and what comes back after relearning or quantisation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.probe_settings import Probe
from search_spaces.settings.trial_settings import TrialSettings
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.data.examples import EvaluationPart
from trainables.engine.zero3_engine import Engine, Weights
from trainables.generation.inference import Inference, inference
from trainables.metrics.closed_world_mass import fact_of
from trainables.metrics.evaluate import aggregate, score_part
from trainables.probes.answers import (
    Answer,
    as_evaluated,
    behind_prefixes,
    greedy_answers,
    in_other_words,
    known_frac,
    leak_at_k,
    sampled_answers,
    worst_case,
)
from trainables.probes.facts import FACT_SETS, Fact, facts_of, read_paraphrases
from trainables.probes.language_judge import graded
from trainables.probes.quantisation import round_weights
from trainables.probes.relearning import fine_tuned, slices

MASSES = ("forget_true_mass", "forget_probability", "forget_extraction_strength", "wmdp_accuracy")
"""Metrics that are measured again, where the data allows, on a model with changed weights."""
CHOICES = ("wmdp",)
"""Multiple-choice sets about what is to be forgotten."""


@dataclass
class Probed:
    """Results of the probes of one model.

    Attributes:
        metrics: Values by part and name: `test/leak_at_k`.
        leaks: One revealing answer for each part, probe and fact that has one.
        facts: Number of probed facts in all parts.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    leaks: list[dict[str, Any]] = field(default_factory=list)
    facts: int = 0

    def note(self, part: str, metrics: Mapping[str, float]) -> None:
        """Add metrics of an evaluation part."""
        self.metrics |= {f"{part}/{name}": value for name, value in metrics.items()}

    def quote(self, part: str, probe: str, answers: Sequence[Answer]) -> None:
        """Keep the first revealing answer about each fact, for the audit's report."""
        seen: set[str] = set()
        for answer in answers:
            fact = answer.attempt.fact
            if answer.reveals and fact.id not in seen:
                seen.add(fact.id)
                question = {"prompt": answer.attempt.prompt, "opening": answer.attempt.opening}
                self.leaks.append(
                    {
                        "part": part,
                        "probe": probe,
                        "id": fact.id,
                        **question,
                        "answer": answer.text,
                        "truth": fact.truth,
                    }
                )


def probe(
    engine: Engine,
    data: EncodedBenchmark,
    parts: Sequence[str],
    evaluation: EvaluationSettings,
    probes: Sequence[Probe],
    trial: TrialSettings,
    weights: Weights = "policy",
) -> Probed:
    """Run probes on the current policy, or on the pristine model. The policy stays as it was.

    Args:
        engine: Engine that holds the model.
        data: The encoded benchmark.
        parts: Evaluation parts whose facts are probed.
        evaluation: Settings of each probe.
        probes: Names of the probes to run.
        trial: The settings that the engine was last reset with.
        weights: `policy` or `pristine`.

    Raises:
        UserError: A file cannot be read, or the judge's client is not installed.
        TrialFailedError: The judge does not answer.

    Ranks: all.
    """
    settings, found = evaluation.probe, Probed()
    # Read before the model is opened: a malformed file must fail early and on every rank.
    reworded = read_paraphrases(settings.paraphrase.file) if settings.paraphrase.file else {}
    sources = {name: data.benchmark.parts[name] for name in parts}
    facts = {
        name: facts_of(part, engine.tokenizer, settings.recall, reworded) for name, part in sources.items()
    }
    found.facts = sum(map(len, facts.values()))
    with inference(engine, trial.engine, weights) as model:
        for name in parts:
            if facts[name]:
                _ask_questions(model, name, facts[name], evaluation, probes, found)
    # The changed models come last: they are made from the weights that the questions above have probed.
    for kind, learned, opened in _changed_models(engine, data, evaluation, probes, trial, weights):
        with opened() as model:
            for name, part in sources.items():
                # Relearned facts are left out: only what comes back without being shown counts.
                rest = [fact for fact in facts[name] if fact.id not in learned]
                _probe_changed_model(model, name, kind, rest, only_forget(part, learned), found)
    return found


def _ask_questions(
    model: Inference,
    part: str,
    facts: list[Fact],
    evaluation: EvaluationSettings,
    probes: Sequence[Probe],
    found: Probed,
) -> None:
    """Run the probes that ask questions and leave the weights as they are."""
    settings = evaluation.probe
    plain = greedy_answers(model, as_evaluated(facts))
    found.note(part, {"forget_told": known_frac(plain)})
    # Quoted once as `asked`; the worst cases below quote only their own answers.
    found.quote(part, "asked", plain)
    if "leak" in probes:
        groups = sampled_answers(model, as_evaluated(facts), settings.leak)
        found.note(part, {"leak_at_k": leak_at_k(groups, settings.leak.k)})
        found.quote(part, "leak", [answer for group in groups for answer in group])
    if "paraphrase" in probes:
        reworded = greedy_answers(model, in_other_words(facts))
        if reworded:  # data without paraphrases has no worst case over them
            found.note(part, {"paraphrase_told": worst_case([*plain, *reworded])})
            found.quote(part, "paraphrase", reworded)
    if "prefix" in probes:
        pushed = greedy_answers(model, behind_prefixes(facts, settings.prefix))
        # The plain answers count too: a fact that needs no prefix is revealed in the worst case as well.
        found.note(part, {"prefix_told": worst_case([*plain, *pushed])})
        found.quote(part, "prefix", pushed)
    if "judge" in probes:
        # Rank 0 alone sends requests. Its error goes through the gather and is raised on every rank: an error
        # on one rank would leave the others waiting in the next collective.
        (grades,) = model.gather([_try(partial(graded, plain, settings.judge))] if model.rank == 0 else [])
        if isinstance(grades, Exception):
            raise grades
        found.note(part, {f"judge_{name}": value for name, value in grades.items()})


def _try(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - raised again, on every rank
        return error


def _probe_changed_model(
    model: Inference, part: str, kind: str, facts: list[Fact], rest: EvaluationPart, found: Probed
) -> None:
    """Measure how much of the forgotten facts a model with changed weights reveals."""
    if facts:
        answers = greedy_answers(model, as_evaluated(facts))
        found.note(part, {f"{kind}_told": known_frac(answers)})
        found.quote(part, kind, answers)
    # Likelihood metrics only: generated answers to the same prompts were scored above.
    metrics = aggregate(score_part(model, rest, max_new_tokens=0))
    found.note(part, {f"{kind}_{name}": metrics[name] for name in MASSES if name in metrics})


Opened = Callable[[], Any]


def _changed_models(
    engine: Engine,
    data: EncodedBenchmark,
    evaluation: EvaluationSettings,
    probes: Sequence[Probe],
    trial: TrialSettings,
    weights: Weights,
) -> Iterator[tuple[str, frozenset[str], Opened]]:
    """Yield name, ids of the facts trained on, and an opening context of each changed model."""
    settings = evaluation.probe
    if "relearn" in probes:
        learned, unrelated = slices(data, settings.relearn.share)
        shown = frozenset(item.id for item in learned)
        for kind, encoded in (("relearned", learned), ("relearned_control", unrelated)):
            # `encoded` is a default argument, since a closure would see the loop variable's last value.
            @contextmanager
            def after_training(encoded: Any = encoded) -> Iterator[Inference]:
                """Open the policy after fine-tuning; its weights are restored at the end."""
                with (
                    fine_tuned(engine, encoded, settings.relearn, trial, weights),
                    inference(engine, trial.engine) as model,
                ):
                    yield model

            # The control is trained on unrelated text, but probed on the same facts.
            yield kind, shown, after_training
    if "quantise" in probes:
        for bits in settings.quantise.bits:
            # Each change starts from a fresh copy of the weights, so roundings do not add up.
            rounded = partial(round_weights, bits=bits, group=settings.quantise.group)
            yield (
                f"int{bits}",
                frozenset(),
                partial(inference, engine, trial.engine, weights, altered=rounded),
            )


def only_forget(part: EvaluationPart, without: frozenset[str]) -> EvaluationPart:
    """Return the forget items of an evaluation part, with some facts left out."""
    return replace(
        part,
        questions=tuple(
            item for item in part.questions if item.subset == "forget" and fact_of(item.id) not in without
        ),
        sets={
            name: tuple(item for item in part.sets[name] if item.id not in without)
            for name in FACT_SETS
            if name in part.sets
        },
        choices={name: part.choices[name] for name in CHOICES if name in part.choices},
    )
