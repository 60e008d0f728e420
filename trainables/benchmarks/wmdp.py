"""WMDP: multiple-choice questions on hazardous knowledge, and documents of that knowledge to forget.

Source: WMDP (arXiv 2403.03218); public schema of `cais/wmdp`, and of `cais/mmlu`, which is the same with a
subject.
"""

from collections.abc import Sequence
from typing import Any

from search_spaces.settings.data_settings import WmdpData
from search_spaces.settings.dataset_files import wmdp_tables
from search_spaces.user_errors import UserError
from trainables.benchmarks.hub_rows import read_table
from trainables.benchmarks.json_rows import Row, checked_text, read_lines
from trainables.benchmarks.running_text import beginnings
from trainables.data.examples import Benchmark, ChoiceQuestion, Example, make_benchmark, split_sets

VALIDATION_SHARE = 0.5
LETTERS = "ABCD"
TOPICS = {"bio": "biology", "cyber": "cybersecurity", "chem": "chemistry"}
CORPUS_REMEDY = 'write one object per line: {"text": "..."}'


def load_wmdp(settings: WmdpData) -> Benchmark:
    """Load WMDP's questions of one field, MMLU's if set, and the forget and retain documents.

    The documents are evaluated too, by likelihood: without MMLU, the likelihood of the retain documents is
    the only measure of utility.

    Raises:
        UserError: A table or corpus is missing, cannot be read, or holds something else.
    """
    forget, retain = _documents(settings, "forget"), _documents(settings, "retain")
    tables = wmdp_tables(settings)
    choices = {
        "wmdp": [
            _question("wmdp", row, TOPICS[settings.subset]) for row in read_table(tables["wmdp"], *COLUMNS)
        ]
    }
    if "mmlu" in tables:
        rows = read_table(tables["mmlu"], *COLUMNS, "subject")
        # The harness writes subjects with spaces: `high_school_physics` becomes `high school physics`.
        choices["mmlu"] = [_question("mmlu", row, row.text("subject").replace("_", " ")) for row in rows]
    sets: dict[str, Sequence[Example]] = {"forget": forget, "retain": retain}
    parts = split_sets(sets, VALIDATION_SHARE, settings.max_evaluation_items, choices)
    return make_benchmark(forget, retain, [*forget, *retain], retain, parts)


COLUMNS = ("question", "choices", "answer")


def _documents(settings: WmdpData, name: str) -> list[Example]:
    key = f"{name}_corpus"
    rows = read_lines(getattr(settings, key), f"data.{key}", CORPUS_REMEDY)[: settings.max_documents]
    return beginnings(name, [row.text("text") for row in rows], settings.document_characters)


def _question(name: str, row: Row, topic: str) -> ChoiceQuestion:
    """Build a question with the LM Evaluation Harness's prompt, as WMDP and MMLU are published."""
    choices, right = _choices(row), row.value("answer")
    # In Python True is an int, but in a data set it is no index.
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(LETTERS):
        raise UserError(
            "not the place of an answer", file=row.place, key="answer", value=right, allowed="0 to 3"
        )
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    head = f"The following are multiple choice questions (with answers) about {topic}."
    prompt = "\n".join([head, "", row.text("question").strip(), *lines, "Answer:"])
    return ChoiceQuestion(f"{name}/{row.number}", prompt, tuple(f" {letter}" for letter in LETTERS), right)


def _choices(row: Row) -> list[str]:
    choices: Any = row.value("choices")
    if not isinstance(choices, list) or len(choices) != len(LETTERS):
        raise UserError(
            "not a list of four answers", file=row.place, key="choices", value=choices, remedy=row.remedy
        )
    return [
        checked_text(choice, f"choices[{index}]", row.place, row.remedy)
        for index, choice in enumerate(choices)
    ]
