"""TOFU (fictitious authors), from the hub or from a folder with one JSON file for each split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from search_spaces.paths import is_local
from search_spaces.settings.data_settings import TofuData
from search_spaces.user_errors import UserError
from trainables.benchmarks.hub_rows import load_split, loaded
from trainables.data.examples import Benchmark, Example, make_benchmark, split_sets

QUESTIONS_PER_AUTHOR = 20
AUTHORS = 200
FORGET_SHARE = {"forget01": 0.01, "forget05": 0.05, "forget10": 0.10}
PERTURBED = ("forget01_perturbed", "forget05_perturbed", "forget10_perturbed", "retain_perturbed")
"""Splits with paraphrases and wrong answers for the last 20 authors, and for 400 questions of the others."""
OUTSIDE = {"real_authors": "real_authors_perturbed", "world_facts": "world_facts_perturbed"}
HOLDOUT = {"forget01": "holdout01", "forget05": "holdout05", "forget10": "holdout10"}
"""Splits of similar authors that no model was trained on, which membership attacks compare with."""
VALIDATION_SHARE = 0.5


def load_tofu(settings: TofuData) -> Benchmark:
    """Load TOFU's published split, or a subset of its last authors.

    Forget items are all evaluated; retain items only where TOFU has paraphrases and wrong answers for them.
    Real authors and world facts are evaluated with the whole data only, since a small model trained from
    scratch on a subset knows nothing about them. The holdout split of the forget split is evaluated if it
    exists.

    Raises:
        UserError: A split cannot be read or has other columns.
    """
    full = _read(settings, "full")
    alternatives = _alternatives(settings)
    examples = [_example(f"q{number:04d}", row, alternatives) for number, row in enumerate(full)]
    if settings.authors is not None and settings.forget_authors is not None:
        # TOFU's forget splits are the last authors, and every question about them has alternatives.
        examples = examples[-settings.authors * QUESTIONS_PER_AUTHOR :]
        forgotten = settings.forget_authors * QUESTIONS_PER_AUTHOR
    else:
        forgotten = round(FORGET_SHARE[settings.forget] * AUTHORS) * QUESTIONS_PER_AUTHOR
    if not forgotten < len(examples):
        raise UserError(
            "too few rows to forget and retain",
            file=_place(settings, "full"),
            value=len(examples),
            allowed=f"more than {forgotten}",
        )
    forget, retain = examples[-forgotten:], examples[:-forgotten]
    sets: dict[str, Sequence[Example]] = {
        "forget": forget,
        # A subset may hold no retain question with alternatives: then all are evaluated, without a truth
        # ratio.
        "retain": [item for item in retain if item.perturbed] or retain,
    }
    if settings.authors is None:
        sets |= {
            name: _outside(settings, name, file) for name, file in OUTSIDE.items() if _exists(settings, file)
        }
    holdout = HOLDOUT[settings.forget]
    if _exists(settings, holdout):
        rows = enumerate(_read(settings, holdout))
        sets["holdout"] = [
            Example(f"holdout/{number}", row["question"], row["answer"]) for number, row in rows
        ]
    return make_benchmark(
        forget, retain, examples, retain, split_sets(sets, VALIDATION_SHARE, settings.max_evaluation_items)
    )


class Alternatives(NamedTuple):
    """TOFU's alternatives to a question and its answer: paraphrases, wrong answers, reworded questions."""

    paraphrases: tuple[str, ...] = ()
    perturbed: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()


def _example(
    example_id: str, row: dict[str, Any], alternatives: dict[tuple[str, str], Alternatives]
) -> Example:
    question, answer = row["question"], row["answer"]
    return Example(example_id, question, answer, *alternatives.get((question, answer), Alternatives()))


def _alternatives(settings: TofuData) -> dict[tuple[str, str], Alternatives]:
    """Return paraphrases and wrong answers by question and answer."""
    # The question alone is no key: a few questions occur twice, with different answers.
    found: dict[tuple[str, str], Alternatives] = {}
    for file in PERTURBED:
        if _exists(settings, file):
            for row in _read(settings, file, "paraphrased_answer", "perturbed_answer"):
                # Only some versions of the data set have this column.
                reworded = row.get("paraphrased_question")
                found[row["question"], row["answer"]] = Alternatives(
                    (row["paraphrased_answer"],),
                    tuple(row["perturbed_answer"]),
                    (reworded,) if reworded else (),
                )
    return found


def _outside(settings: TofuData, name: str, file: str) -> list[Example]:
    rows = _read(settings, file, "perturbed_answer")
    return [
        Example(f"{name}/{number}", row["question"], row["answer"], (), tuple(row["perturbed_answer"]))
        for number, row in enumerate(rows)
    ]


def _exists(settings: TofuData, file: str) -> bool:
    # The hub has all splits; a local folder may hold some of them.
    return not is_local(settings.path) or (Path(settings.path) / f"{file}.json").exists()


def _place(settings: TofuData, file: str) -> str:
    return str(Path(settings.path) / f"{file}.json") if is_local(settings.path) else f"{settings.path}:{file}"


def _read(settings: TofuData, file: str, *columns: str) -> list[dict[str, Any]]:
    """Read the rows of one split. Local files may be JSON Lines or one JSON array."""
    place = _place(settings, file)
    if not _exists(settings, file):
        raise UserError(
            "no such file",
            file=place,
            key="data.path",
            value=settings.path,
            remedy="give a folder with TOFU's JSON files, or locuslab/TOFU",
        )
    if is_local(settings.path):
        rows = loaded(
            lambda datasets: datasets.load_dataset("json", data_files=place, split="train"),
            settings.path,
            place=place,
            key="data.path",
        )
    else:
        rows = load_split(settings.path, file, "train", settings.revision, place=place, key="data.path")
    # A wrong column is named here, with the file, rather than by a KeyError further on.
    missing = sorted({"question", "answer", *columns} - set(rows.column_names))
    if missing:
        raise UserError(
            f"no column {', '.join(missing)}",
            file=place,
            value=sorted(rows.column_names),
            allowed="TOFU's columns",
        )
    return [dict(row) for row in rows]
