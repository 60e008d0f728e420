"""The facts to be forgotten: the questions about each, and the test whether an answer reveals it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from trainables.benchmarks.json_rows import read_lines
from trainables.data.examples import ClosedQuestion, EvaluationPart, Example
from trainables.metrics.closed_world_mass import fact_of
from trainables.metrics.example_sets import (
    ANSWER_FORMATS,
    MAX_NEW_TOKENS,
    USUAL_FORMAT,
    AnswerFormat,
    is_question,
    reference_of,
)
from trainables.metrics.rouge import rouge_l_recall

FACT_SETS = ("forget", "verbmem", "forget_knowmem")
"""Example sets with questions about what is to be forgotten."""
CLOSED_WORLD = AnswerFormat(max_new_tokens=24)
"""Format of closed-world answers, which are short and end by themselves."""
REMEDY = 'write one object per line: {"prompt": "...", "paraphrases": ["...", "..."]}'


@dataclass(frozen=True)
class Fact:
    """One fact that was to be forgotten."""

    id: str
    """Id of the fact; that of the training example where training examples are evaluated."""
    prompts: tuple[str, ...]
    """Questions of the evaluation."""
    paraphrases: tuple[str, ...]
    """Paraphrased questions."""
    openings: tuple[str, ...]
    """Beginnings of answers that would reveal the fact."""
    truth: str
    """A true answer."""
    revealed_by: Callable[[str], bool] = field(compare=False)
    """Whether an answer reveals the fact."""
    answer_format: AnswerFormat = USUAL_FORMAT
    """How answers are generated."""
    plain: bool = False
    """Whether prompts are running text: see `Example.plain`."""


def facts_of(
    part: EvaluationPart,
    tokenizer: PreTrainedTokenizerBase,
    recall: float,
    reworded: Mapping[str, Sequence[str]],
) -> list[Fact]:
    """Collect the facts of one evaluation part that questions exist for.

    Args:
        part: Closed-world questions, or sets of examples. Multiple-choice questions are left out, since their
            answers are letters.
        tokenizer: Tokenizer that cuts true passages to the length of an answer.
        recall: ROUGE-L recall of a true answer from which an answer reveals the fact.
        reworded: Paraphrased questions by prompt, beside those of the data.
    """
    facts = _closed_facts(part.questions)
    for name in FACT_SETS:
        answer_format = ANSWER_FORMATS.get(name, USUAL_FORMAT)
        for example in part.sets.get(name, ()):
            if is_question(example):
                # An answer is compared with the text that fits into it: nothing can recall more words.
                longest = answer_format.max_new_tokens or MAX_NEW_TOKENS
                truth = reference_of(tokenizer, example, answer_format, longest)
                facts.append(_example_fact(example, truth, answer_format, recall))
    return [replace(fact, paraphrases=(*fact.paraphrases, *_given(fact, reworded))) for fact in facts]


def _given(fact: Fact, reworded: Mapping[str, Sequence[str]]) -> list[str]:
    return [text for prompt in fact.prompts for text in reworded.get(prompt, ())]


def read_paraphrases(path: str) -> dict[str, tuple[str, ...]]:
    """Read paraphrased questions by prompt from a user's file.

    Raises:
        UserError: The file cannot be read, or a line is malformed.
    """
    return {
        row.text("prompt"): row.texts("paraphrases")
        for row in read_lines(path, "evaluation.probe.paraphrase.file", REMEDY)
    }


def _closed_facts(questions: Sequence[ClosedQuestion]) -> list[Fact]:
    """Collect the facts of the closed world; several questions about one fact give one fact."""
    groups: dict[str, list[ClosedQuestion]] = {}
    for question in questions:
        if question.subset == "forget":
            # Retain questions are left out: what the model should know is no leak.
            groups.setdefault(fact_of(question.id), []).append(question)
    facts = []
    for name, group in groups.items():
        first = group[0]
        row = first.responses[first.true_value]
        value = value_of(first)
        # Each phrasing up to its value: the model need only fill in the value.
        openings = [response[: response.index(value)].strip() for response in row]
        facts.append(
            Fact(
                id=name,
                prompts=tuple(question.prompt for question in group),
                paraphrases=first.paraphrases,
                openings=tuple(dict.fromkeys(opening for opening in openings if opening)),
                truth=row[first.canonical],
                revealed_by=Says(value),
                answer_format=CLOSED_WORLD,
            )
        )
    return facts


def value_of(question: ClosedQuestion) -> str:
    """Return the words in which the true answer differs from the answer with another value."""
    # Common words at both ends belong to the phrasing; what is left between them is the value.
    true, other = (
        re.findall(r"\w+", question.responses[value][question.canonical])
        for value in (question.true_value, (question.true_value + 1) % len(question.responses))
    )
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(true, other, strict=False)))
    end = sum(
        1
        for _ in takewhile(
            lambda pair: pair[0] == pair[1], zip(true[start:][::-1], other[start:][::-1], strict=False)
        )
    )
    return " ".join(true[start : len(true) - end])


@dataclass(frozen=True)
class Says:
    """A test whether an answer contains a value as whole words."""

    value: str

    def __call__(self, answer: str) -> bool:
        """Return whether the answer contains the value."""
        return re.search(rf"\b{re.escape(self.value)}\b", answer, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Recalls:
    """A test whether an answer contains most of the words of at least one true wording."""

    wordings: tuple[str, ...]
    recall: float

    def __call__(self, answer: str) -> bool:
        """Return whether ROUGE-L recall reaches the threshold for any wording."""
        # A wording without words has no recall, and reveals nothing.
        return any((rouge_l_recall(wording, answer) or 0.0) >= self.recall for wording in self.wordings)


def _example_fact(example: Example, truth: str, answer_format: AnswerFormat, recall: float) -> Fact:
    return Fact(
        id=example.id,
        prompts=(example.prompt,),
        paraphrases=example.questions,
        openings=(),
        truth=truth,
        revealed_by=Recalls((truth, *example.paraphrases), recall),
        answer_format=answer_format,
        plain=example.plain,
    )
