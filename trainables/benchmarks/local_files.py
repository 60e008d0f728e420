"""The user's own forget and retain sets: JSON Lines files with `prompt` and `response`."""

from search_spaces.settings.data_settings import LocalFilesData
from trainables.benchmarks.json_rows import Row, read_lines
from trainables.data.examples import Benchmark, Example, make_benchmark, split_sets

REMEDY = 'write one object per line: {"prompt": "...", "response": "..."}'


def load_local_files(settings: LocalFilesData) -> Benchmark:
    """Read the forget, retain and holdout files of `settings`.

    Keys other than `prompt`, `response` and `paraphrases` are ignored. Blank lines are skipped.

    Raises:
        UserError: A file is missing or empty, or a line is malformed (with its number).
    """
    forget = _read(settings.forget, "forget")
    retain = _read(settings.retain, "retain")
    sets = {"forget": forget, "retain": retain}
    if settings.holdout is not None:
        sets["holdout"] = _read(settings.holdout, "holdout")
    # Own files have no separate evaluation data: the training examples themselves are evaluated.
    parts = split_sets(sets, settings.validation_share, settings.max_evaluation_items)
    # A model prepared from a base is trained on both files, the retrained model on the retain file alone.
    return make_benchmark(forget, retain, forget + retain, retain, parts)


def _read(path: str, name: str) -> list[Example]:
    return [_example(row, f"{name}:{row.number}") for row in read_lines(path, f"data.{name}", REMEDY)]


def _example(row: Row, example_id: str) -> Example:
    return Example(example_id, row.text("prompt"), row.text("response"), row.texts("paraphrases"))
