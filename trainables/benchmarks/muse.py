"""MUSE: news articles or books to forget, asked for word by word, as knowledge, and by membership attacks.

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
    """Load MUSE's text as training examples and its questions, passages and attacked texts as evaluation
    sets.

    `forget`, `retain` and `holdout` are the texts of the membership attacks, cut off after as many characters
    as a training example has; `verbmem` are passages of the forget text to be continued; `forget_knowmem` and
    `retain_knowmem` questions behind example questions. All of them are MUSE's own whatever is forgotten, so
    that requests (`sust`, `scal`) are compared on one yardstick.

    A model that is prepared from a base knows the text that is forgotten and both retain splits; for later
    `sust` requests give the model that was exported after the one before.

    Raises:
        UserError: A table is missing, cannot be read or has other columns.
    """
    tables = muse_tables(settings)

    def texts(role: str) -> list[str]:
        return [row.text("text") for row in read_table(tables[role], "text")]

    def questions(name: str) -> list[Example]:
        shots = ""
        if settings.shots:
            shots = "".join(
                _shot(row) for row in read_table(tables[f"{name}_shots"], *QUESTION)[: settings.shots]
            )
        return [
            _question(f"{name}_knowmem/{row.number}", row, shots)
            for row in read_table(tables[f"{name}_knowmem"], *QUESTION)
        ]

    size = settings.chunk_characters
    forget, retain = chunks("forget", texts("forget"), size), chunks("retain", texts("retain"), size)
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
    return f"{_asked(row)}{row.text('answer')}\n\n"


def _question(example_id: str, row: Row, shots: str) -> Example:
    return Example(example_id, shots + _asked(row), row.text("answer"), plain=True)


def _asked(row: Row) -> str:
    # The space at the end is the published prompt's.
    return f"Question: {row.text('question')}\nAnswer: "


def _passage(row: Row) -> Example:
    prompt, rest = row.text("prompt"), row.text("gt")
    # OU puts a space between the two; some of them bring their own.
    space = "" if prompt[-1].isspace() or rest[0].isspace() else " "
    return Example(f"verbmem/{row.number}", prompt, space + rest, plain=True)
