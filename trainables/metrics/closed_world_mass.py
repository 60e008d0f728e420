"""Exact probability of every well-formed answer to a closed-world question: canonical, rephrased, true,
coherent.

Source: method.md section 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainables.data.encoding import asked_under, encode, encode_prompt
from trainables.data.examples import ClosedQuestion
from trainables.metrics.aggregates import harmonic_mean
from trainables.metrics.scoring import Ids, Scorer, dealt_batches

MASSES = ("canonical_mass", "rephrased_mass", "true_mass", "posterior", "coherence")
FORGOTTEN_CANONICAL = 0.01
KNOWN_POSTERIOR = 0.5


@dataclass(frozen=True)
class QuestionMass:
    """How the model spreads its probability over the listed responses to one question."""

    canonical_mass: float
    """P(the canonical response with the true value)."""
    rephrased_mass: float
    """P(any other phrasing of the true value)."""
    true_mass: float
    """Their sum."""
    posterior: float
    """true_mass over the mass of all values; chance is one over the number of values."""
    coherence: float
    """Mass of all well-formed responses, any value in any phrasing."""


def question_mass(logp_nats: Sequence[Sequence[float]], true_value: int, canonical: int) -> QuestionMass:
    """Masses from the log-probability of every response, by value and phrasing.

    The posterior is taken in logarithms: where the model has collapsed, all masses underflow but their ratio
    does not.
    """
    true_row = np.asarray(logp_nats[true_value], dtype=np.float64)
    everything = _log_sum(np.fromiter(chain.from_iterable(logp_nats), dtype=np.float64))
    others = np.delete(true_row, canonical)
    return QuestionMass(
        canonical_mass=_mass(true_row[canonical]),
        rephrased_mass=_mass(_log_sum(others)) if others.size else 0.0,
        true_mass=_mass(_log_sum(true_row)),
        posterior=_mass(_log_sum(true_row) - everything),
        coherence=_mass(everything),
    )


def total_variation(logp_nats: Sequence[float], other_logp_nats: Sequence[float]) -> float:
    """Total variation distance of two models' distributions over the listed responses, whatever else they may
    say counted as one more.

    Args:
        logp_nats: Log-probability of every response under one model.
        other_logp_nats: The same under the other, in the same order.
    """
    p, q = (np.exp(np.asarray(values, dtype=np.float64)) for values in (logp_nats, other_logp_nats))
    if p.shape != q.shape:
        raise ValueError("two models are compared on the same responses")
    rest = abs(max(0.0, 1 - p.sum()) - max(0.0, 1 - q.sum()))
    return float(np.minimum((np.abs(p - q).sum() + rest) / 2, 1.0))


def _log_sum(logp_nats: np.ndarray) -> float:
    # For some sixty numbers; scipy's is ten times slower than the sum.
    with np.errstate(invalid="ignore"):  # a diverged model's NaN is seen by what comes of it
        return float(np.logaddexp.reduce(logp_nats))


def _mass(logp_nats: float) -> float:
    # Sums of float32 log-probabilities may pass 1 by rounding. np.minimum, unlike min, lets NaN through: a
    # diverged model must be seen.
    return float(np.minimum(np.exp(logp_nats), 1.0))


def score_questions(scorer: Scorer, questions: Sequence[ClosedQuestion]) -> list[dict[str, Any]]:
    """Masses of this rank's share of the questions.

    Returns:
        Per question `id`, `subset`, the fields of `QuestionMass`, and `logp_nats` of every response, value by
        value. Ranks: all; each gets its own share.
    """
    longest_first = sorted(questions, key=lambda question: (-len(question.prompt), question.id))
    most_responses = max((sum(map(len, question.responses)) for question in questions), default=1)
    continuations = continuations_of(scorer.tokenizer)
    items: list[dict[str, Any]] = []
    # A batch holds every response to each of its questions.
    for chunk in dealt_batches(longest_first, scorer, max(1, scorer.batch // most_responses)):
        encoded = [continuations(question) for question in chunk]
        scores = scorer.score_continuations(
            [prompt for prompt, _ in encoded], [answers for _, answers in encoded]
        )
        for question, logp in zip(chunk, scores, strict=True):
            mass = question_mass(_rows(logp, question), question.true_value, question.canonical)
            items.append({"id": question.id, "subset": question.subset, **asdict(mass), "logp_nats": logp})
    return items


def _rows(values: Sequence[float], question: ClosedQuestion) -> list[Sequence[float]]:
    """A flat list of values cut into the question's values x phrasings."""
    ends = np.cumsum([len(row) for row in question.responses]).tolist()
    return [values[end - len(row) : end] for end, row in zip(ends, question.responses, strict=True)]


def continuations_of(tokenizer: PreTrainedTokenizerBase) -> "Continuations":
    """Those of a tokenizer, kept from one evaluation to the next: the questions are the same at every rung of
    every trial."""
    known = getattr(tokenizer, "_lethe_continuations", None)
    if known is None or known.asked_under != asked_under(tokenizer):
        known = tokenizer._lethe_continuations = Continuations(tokenizer)
    return known


class Continuations:
    """Token ids of prompts and of every response to them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.asked_under = asked_under(tokenizer)
        """What else decides how a prompt is encoded."""
        self._after_special: dict[str, Ids] = {}
        self._known: dict[ClosedQuestion, tuple[Ids, list[Ids]]] = {}

    def __call__(self, question: ClosedQuestion) -> tuple[Ids, list[Ids]]:
        """Prompt ids, and the ids of each response, end token included, value by value."""
        # By the whole question: other data may use the same ids.
        if question not in self._known:
            self._known[question] = self._encoded(question)
        return self._known[question]

    def _encoded(self, question: ClosedQuestion) -> tuple[Ids, list[Ids]]:
        prompt = encode_prompt(self._tokenizer, question.prompt)
        # A special token ends the text before it for the tokenizer, so what follows does not depend on the
        # prompt: the many questions about one attribute share their responses (6000 encodings become 180 in
        # the quickstart).
        border = prompt[-1] in self._tokenizer.all_special_ids
        answers = []
        for response in chain.from_iterable(question.responses):
            known = self._after_special.get(response) if border else None
            if known is None:
                ids, length = encode(self._tokenizer, question.prompt, response)
                known = ids[length:]
                if border:
                    self._after_special[response] = known
            answers.append(known)
        return prompt, answers


def aggregate_questions(
    items: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, float] | None = None,
    retrained_items: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Means over the questions of each subset, and what follows from them.

    Args:
        items: What `score_questions` gave, of all ranks.
        baseline: Metrics of the original model on the same items, for `forget_squeeze`; left out without it.
        retrained_items: Items of the retrained model, for the distances to it; left out without them.

    Returns:
        `forget_<mass>` and `retain_<mass>` for each of `MASSES`, `forget_spurious`, `forget_squeeze`, the
        mean `forget_total_variation` and `retain_total_variation` to the retrained model, and
        `utility` = HM(retain_true_mass, forget_coherence), which counts collapse.
    """
    metrics: dict[str, float] = {}
    # Measurements of earlier versions hold masses only.
    known = {item["id"]: item["logp_nats"] for item in retrained_items if "logp_nats" in item}
    for subset in ("forget", "retain"):
        chosen = [item for item in items if item["subset"] == subset]
        if chosen:
            metrics |= {
                f"{subset}_{name}": float(np.mean([item[name] for item in chosen])) for name in MASSES
            }
        if known and chosen and "logp_nats" in chosen[0]:
            metrics[f"{subset}_total_variation"] = float(
                np.mean([total_variation(item["logp_nats"], known[item["id"]]) for item in chosen])
            )
    if "forget_coherence" in metrics:
        metrics["forget_spurious"] = spurious([item for item in items if item["subset"] == "forget"])
        if baseline is not None and "forget_rephrased_mass" in baseline:
            metrics["forget_squeeze"] = metrics["forget_rephrased_mass"] - baseline["forget_rephrased_mass"]
        if "retain_true_mass" in metrics:
            metrics["utility"] = harmonic_mean([metrics["retain_true_mass"], metrics["forget_coherence"]])
    return metrics


def spurious(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of the facts whose canonical answer is gone (mass < .01) while their value is still believed
    (posterior > .5).

    Args:
        items: Forget questions; those of one fact are averaged first.
    """
    facts: dict[str, list[tuple[float, float]]] = {}
    for item in items:
        facts.setdefault(fact_of(item["id"]), []).append((item["canonical_mass"], item["posterior"]))
    means = np.array([np.mean(group, axis=0) for group in facts.values()])
    return float(np.mean((means[:, 0] < FORGOTTEN_CANONICAL) & (means[:, 1] > KNOWN_POSTERIOR)))


def fact_of(question_id: str) -> str:
    """The fact that a question asks for: `p07/city` of `p07/city/validation/1`."""
    return "/".join(question_id.split("/")[:2])
