"""Exact probability of every well-formed answer to a closed-world question, summed by meaning.

Source: method.md section 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainables.data.encoding import encode, encode_prompt, prompt_settings
from trainables.data.examples import ClosedQuestion
from trainables.metrics.aggregates import harmonic_mean
from trainables.metrics.scoring import Ids, Scorer, batches_of_rank

MASSES = ("canonical_mass", "rephrased_mass", "true_mass", "posterior", "coherence")
FORGOTTEN_CANONICAL = 0.01
"""Probability of the canonical answer below which a classical metric calls the fact forgotten."""
KNOWN_POSTERIOR = 0.5
"""Posterior of the true value above which the model still holds the fact."""


@dataclass(frozen=True)
class QuestionMass:
    """Probability masses of the listed responses to one question."""

    canonical_mass: float
    """P(the canonical response with the true value)."""
    rephrased_mass: float
    """P(any other phrasing of the true value)."""
    true_mass: float
    """canonical_mass + rephrased_mass."""
    posterior: float
    """true_mass divided by the mass of all values; chance is one over the number of values."""
    coherence: float
    """Mass of all well-formed responses, any value in any phrasing."""


def question_mass(logp_nats: Sequence[Sequence[float]], true_value: int, canonical: int) -> QuestionMass:
    """Compute the masses of one question.

    The posterior is computed in logarithms: where the model has collapsed, all masses underflow but their
    ratio does not.

    Args:
        logp_nats: Log-probability of every response, values x phrasings.
        true_value: Row of the true value.
        canonical: Column of the canonical phrasing.
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
    """Total variation distance between two models' distributions over the answers to one question, in [0, 1].

    All text outside of the listed responses counts as one more answer.

    Args:
        logp_nats: Log-probability of every response under one model.
        other_logp_nats: Log-probability of every response under the other model, in the same order.

    Raises:
        ValueError: The two lists differ in length.
    """
    p, q = (np.exp(np.asarray(values, dtype=np.float64)) for values in (logp_nats, other_logp_nats))
    if p.shape != q.shape:
        raise ValueError("two models are compared on the same responses")
    # Listed mass may exceed 1 by rounding, and the remaining mass must not become negative.
    rest = abs(max(0.0, 1 - p.sum()) - max(0.0, 1 - q.sum()))
    return float(np.minimum((np.abs(p - q).sum() + rest) / 2, 1.0))


def _log_sum(logp_nats: np.ndarray) -> float:
    # There are some sixty numbers, for which scipy's logsumexp is ten times slower than the sum itself. The
    # warning about NaN is silenced: a diverged model shows by its metrics.
    with np.errstate(invalid="ignore"):
        return float(np.logaddexp.reduce(logp_nats))


def _mass(logp_nats: float) -> float:
    # Sums of float32 log-probabilities may pass 1 by rounding. np.minimum, unlike min, lets NaN through: a
    # diverged model must be seen.
    return float(np.minimum(np.exp(logp_nats), 1.0))


def score_questions(scorer: Scorer, questions: Sequence[ClosedQuestion]) -> list[dict[str, Any]]:
    """Score this rank's share of the questions.

    Returns:
        For each question `id`, `subset`, the fields of `QuestionMass`, and `logp_nats` of every response,
        value by value. Ranks: all; each gets its own share.
    """
    # Longest first, so that the prompts of one batch have similar lengths and little padding.
    longest_first = sorted(questions, key=lambda question: (-len(question.prompt), question.id))
    most_responses = max((sum(map(len, question.responses)) for question in questions), default=1)
    continuations = continuations_of(scorer.tokenizer)
    items: list[dict[str, Any]] = []
    # A question brings one sequence for each response, and the batch size counts sequences.
    for chunk in batches_of_rank(longest_first, scorer, max(1, scorer.batch // most_responses)):
        encoded = [continuations(question) for question in chunk]
        scores = scorer.score_continuations(
            [prompt for prompt, _ in encoded], [answers for _, answers in encoded]
        )
        for question, logp in zip(chunk, scores, strict=True):
            mass = question_mass(_rows(logp, question), question.true_value, question.canonical)
            items.append({"id": question.id, "subset": question.subset, **asdict(mass), "logp_nats": logp})
    return items


def _rows(values: Sequence[float], question: ClosedQuestion) -> list[Sequence[float]]:
    """Cut a flat list of numbers into the question's values x phrasings."""
    ends = np.cumsum([len(row) for row in question.responses]).tolist()
    return [values[end - len(row) : end] for end, row in zip(ends, question.responses, strict=True)]


def continuations_of(tokenizer: PreTrainedTokenizerBase) -> "Continuations":
    """Return the cached encoder of a tokenizer, or a new one if its prompt settings have changed.

    The cache outlives an evaluation, since every rung of every trial scores the same questions.
    """
    cached = getattr(tokenizer, "_lethe_continuations", None)
    if cached is None or cached.prompt_settings != prompt_settings(tokenizer):
        cached = tokenizer._lethe_continuations = Continuations(tokenizer)
    return cached


class Continuations:
    """Encodes closed-world questions, and remembers the token ids of prompts and responses."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.prompt_settings = prompt_settings(tokenizer)
        """System prompt, instruction and chat template that the cached ids were encoded with."""
        self._after_special: dict[str, Ids] = {}
        self._encoded_questions: dict[ClosedQuestion, tuple[Ids, list[Ids]]] = {}

    def __call__(self, question: ClosedQuestion) -> tuple[Ids, list[Ids]]:
        """Return the prompt ids, and the ids of each response, end token included, value by value."""
        # The key is the whole question: other data may use the same question ids.
        if question not in self._encoded_questions:
            self._encoded_questions[question] = self._encoded(question)
        return self._encoded_questions[question]

    def _encoded(self, question: ClosedQuestion) -> tuple[Ids, list[Ids]]:
        prompt = encode_prompt(self._tokenizer, question.prompt)
        # The tokenizer splits text at a special token, so that ids behind one do not depend on the prompt:
        # the many questions about one attribute share their responses (6000 encodings become 180 in the
        # quickstart).
        border = prompt[-1] in self._tokenizer.all_special_ids
        answers = []
        for response in chain.from_iterable(question.responses):
            answer = self._after_special.get(response) if border else None
            if answer is None:
                ids, length = encode(self._tokenizer, question.prompt, response)
                answer = ids[length:]
                if border:
                    self._after_special[response] = answer
            answers.append(answer)
        return prompt, answers


def aggregate_questions(
    items: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, float] | None = None,
    retrained_items: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Average the masses over the questions of each subset, and compute the metrics that follow from them.

    Args:
        items: The results of `score_questions` on all ranks.
        baseline: Metrics of the original model on the same items; without it `forget_squeeze` is left out.
        retrained_items: Items of the retrained model; without them the distances to it are left out.

    Returns:
        `forget_<mass>` and `retain_<mass>` for each of `MASSES`, `forget_spurious`, `forget_squeeze`, the
        mean `forget_total_variation` and `retain_total_variation` to the retrained model, and
        `utility` = HM(retain_true_mass, forget_coherence), which counts collapse.
    """
    metrics: dict[str, float] = {}
    # Measurements written by earlier versions hold masses only, without log-probabilities.
    retrained_logp = {item["id"]: item["logp_nats"] for item in retrained_items if "logp_nats" in item}
    for subset in ("forget", "retain"):
        chosen = [item for item in items if item["subset"] == subset]
        if chosen:
            metrics |= {
                f"{subset}_{name}": float(np.mean([item[name] for item in chosen])) for name in MASSES
            }
        if retrained_logp and chosen and "logp_nats" in chosen[0]:
            metrics[f"{subset}_total_variation"] = float(
                np.mean([total_variation(item["logp_nats"], retrained_logp[item["id"]]) for item in chosen])
            )
    # These metrics need forget questions; a part may hold retain questions alone.
    if "forget_coherence" in metrics:
        metrics["forget_spurious"] = spurious([item for item in items if item["subset"] == "forget"])
        if baseline is not None and "forget_rephrased_mass" in baseline:
            # Squeezing is what moved into rephrasings, so the original model's rephrased mass is subtracted.
            metrics["forget_squeeze"] = metrics["forget_rephrased_mass"] - baseline["forget_rephrased_mass"]
        if "retain_true_mass" in metrics:
            # Coherence counts as utility: a collapsed model has forgotten everything, and this mean sees it.
            metrics["utility"] = harmonic_mean([metrics["retain_true_mass"], metrics["forget_coherence"]])
    return metrics


def spurious(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of facts with spurious unlearning: canonical mass below .01, yet posterior above .5.

    Args:
        items: Items of forget questions; the questions of one fact are averaged first.
    """
    facts: dict[str, list[tuple[float, float]]] = {}
    for item in items:
        facts.setdefault(fact_of(item["id"]), []).append((item["canonical_mass"], item["posterior"]))
    means = np.array([np.mean(group, axis=0) for group in facts.values()])
    return float(np.mean((means[:, 0] < FORGOTTEN_CANONICAL) & (means[:, 1] > KNOWN_POSTERIOR)))


def fact_of(question_id: str) -> str:
    """Return the id of the fact behind a question: `p07/city` for `p07/city/validation/1`."""
    return "/".join(question_id.split("/")[:2])
