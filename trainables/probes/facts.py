"""What was to be forgotten, fact by fact: how it is asked for, and when an answer tells it."""

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
"""Sets of examples that ask for what is to be forgotten."""
CLOSED_WORLD = AnswerFormat(max_new_tokens=24)
"""Its answers are short, and end."""
REMEDY = 'write one object per line: {"prompt": "...", "paraphrases": ["...", "..."]}'


@dataclass(frozen=True)
class Fact:
    """Something that was to be forgotten."""

    id: str
    """That of the training example, where evaluation asks for training examples."""
    prompts: tuple[str, ...]
    """As the evaluation asks for it."""
    paraphrases: tuple[str, ...]
    """Other ways to ask."""
    openings: tuple[str, ...]
    """Beginnings of answers that would tell it."""
    truth: str
    """An answer that tells it."""
    tells: Callable[[str], bool] = field(compare=False)
    """Whether an answer tells it."""
    asking: AnswerFormat = USUAL_FORMAT
    plain: bool = False
    """Prompts are running text: see `Example.plain`."""


def facts_of(
    part: EvaluationPart,
    tokenizer: PreTrainedTokenizerBase,
    recall: float,
    reworded: Mapping[str, Sequence[str]],
) -> list[Fact]:
    """The facts of one evaluation part that can be asked for.

    Args:
        part: Closed-world questions, or sets of examples. Multiple-choice questions are no facts here: nobody
            answers them in words.
        tokenizer: Cuts true passages to the length of an answer.
        recall: Share of a true answer's words that tells it.
        reworded: Other wordings by prompt, beside those that the data has.
    """
    facts = _closed_facts(part.questions)
    for name in FACT_SETS:
        asking = ANSWER_FORMATS.get(name, USUAL_FORMAT)
        for example in part.sets.get(name, ()):
            if is_question(example):
                truth = reference_of(tokenizer, example, asking, asking.max_new_tokens or MAX_NEW_TOKENS)
                facts.append(_example_fact(example, truth, asking, recall))
    return [replace(fact, paraphrases=(*fact.paraphrases, *_given(fact, reworded))) for fact in facts]


def _given(fact: Fact, reworded: Mapping[str, Sequence[str]]) -> list[str]:
    return [text for prompt in fact.prompts for text in reworded.get(prompt, ())]


def read_paraphrases(path: str) -> dict[str, tuple[str, ...]]:
    """Other wordings by prompt from a user's file.

    Raises:
        UserError: The file cannot be read, or a line is malformed.
    """
    return {
        row.text("prompt"): row.texts("paraphrases")
        for row in read_lines(path, "evaluation.probe.paraphrase.file", REMEDY)
    }


def _closed_facts(questions: Sequence[ClosedQuestion]) -> list[Fact]:
    """Facts of the closed world: those that several questions ask for are one."""
    groups: dict[str, list[ClosedQuestion]] = {}
    for question in questions:
        if question.subset == "forget":
            groups.setdefault(fact_of(question.id), []).append(question)
    facts = []
    for name, group in groups.items():
        first = group[0]
        row = first.responses[first.true_value]
        value = value_of(first)
        openings = [response[: response.index(value)].strip() for response in row]
        facts.append(
            Fact(
                id=name,
                prompts=tuple(question.prompt for question in group),
                paraphrases=first.paraphrases,
                openings=tuple(dict.fromkeys(opening for opening in openings if opening)),
                truth=row[first.canonical],
                tells=Says(value),
                asking=CLOSED_WORLD,
            )
        )
    return facts


def value_of(question: ClosedQuestion) -> str:
    """The words in which the true answer differs from one with another value."""
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
    """Whether an answer holds a value as whole words."""

    value: str

    def __call__(self, answer: str) -> bool:
        """Whether it does."""
        return re.search(rf"\b{re.escape(self.value)}\b", answer, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Recalls:
    """Whether an answer has most of the words of any true wording."""

    wordings: tuple[str, ...]
    recall: float

    def __call__(self, answer: str) -> bool:
        """Whether it does."""
        return any((rouge_l_recall(wording, answer) or 0.0) >= self.recall for wording in self.wordings)


def _example_fact(example: Example, truth: str, asking: AnswerFormat, recall: float) -> Fact:
    return Fact(
        id=example.id,
        prompts=(example.prompt,),
        paraphrases=example.questions,
        openings=(),
        truth=truth,
        tells=Recalls((truth, *example.paraphrases), recall),
        asking=asking,
        plain=example.plain,
    )
