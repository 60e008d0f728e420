"""MUSE: news articles or books to forget, evaluated by verbatim recall, knowledge and membership attacks.

Source: MUSE (arXiv 2407.06460); public schema of `muse-bench/MUSE-News` and `muse-bench/MUSE-Books`.
"""

from collections.abc import Sequence

from search_spaces.settings.data_settings import MuseData
from search_spaces.settings.dataset_files import muse_tables
from trainables.benchmarks.hub_rows import read_table
from trainables.benchmarks.json_rows import Row
from trainables.benchmarks.running_text import beginnings, chunks
from trainables.data.examples import Benchmark, Example, make_benchmark, split_sets

VALIDATION_SHARE = 0.5
QUESTION = ("question", "answer")


def load_muse(settings: MuseData) -> Benchmark:
    """Load MUSE's texts as training examples, and its questions, passages and attacked texts for evaluation.

    `forget`, `retain` and `holdout` are the texts of the membership attacks, cut to the length of a training
    example; `verbmem` holds passages of the forget text to be continued; `forget_knowmem` and
    `retain_knowmem` hold questions with few-shot examples in front. The evaluation sets are MUSE's own
    whatever is forgotten, so that requests (`sust`, `scal`) are compared on the same items.

    A model that is prepared from a base is trained on the forget text and both retain splits. For a later
    `sust` request, give the model that was exported after the request before it.

    Raises:
        UserError: A table is missing, cannot be read or has other columns.
    """
    tables = muse_tables(settings)

    def texts(role: str) -> list[str]:
        return [row.text("text") for row in read_table(tables[role], "text")]

    def questions(name: str) -> list[Example]:
        """Read the questions about a text, each behind the same few-shot examples."""
        shots = ""
        # Without shots the table of example questions is not read: a local copy may lack it.
        if settings.shots:
            examples = read_table(tables[f"{name}_shots"], *QUESTION)
            shots = "".join(_shot(row) for row in examples[: settings.shots])
        rows = read_table(tables[f"{name}_knowmem"], *QUESTION)
        return [_question(f"{name}_knowmem/{row.number}", row, shots) for row in rows]

    size = settings.chunk_characters
    forget, retain = chunks("forget", texts("forget"), size), chunks("retain", texts("retain"), size)
    # The second retain split is text that the retrained model knows too, but that unlearning does not train
    # on.
    retained = [*retain, *chunks("other_retain", texts("other_retain"), size)]
    sets: dict[str, Sequence[Example]] = {
        name: beginnings(f"attacked/{name}", texts(f"{name}_attacked"), size)
        for name in ("forget", "retain", "holdout")
    }
    sets |= {f"{name}_knowmem": questions(name) for name in ("forget", "retain")}
    sets["verbmem"] = [_passage(row) for row in read_table(tables["verbmem"], "prompt", "gt")]
    parts = split_sets(sets, VALIDATION_SHARE, settings.max_evaluation_items)
    return make_benchmark(forget, retain, [*forget, *retained], retained, parts)


def _shot(row: Row) -> str:
    return f"{_question_prompt(row)}{row.text('answer')}\n\n"


def _question(example_id: str, row: Row, shots: str) -> Example:
    return Example(example_id, shots + _question_prompt(row), row.text("answer"), plain=True)


def _question_prompt(row: Row) -> str:
    # The published prompt ends with a space.
    return f"Question: {row.text('question')}\nAnswer: "


def _passage(row: Row) -> Example:
    prompt, rest = row.text("prompt"), row.text("gt")
    # OU joins the two with a space; some rows already have white space at the border.
    space = "" if prompt[-1].isspace() or rest[0].isspace() else " "
    return Example(f"verbmem/{row.number}", prompt, space + rest, plain=True)
