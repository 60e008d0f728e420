"""The `data:` block: the benchmark with its forget, retain and evaluation items. One class per benchmark."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from search_spaces.settings.base_settings import PositiveInt, Settings


class ClosedWorldData(Settings):
    """A generated world of invented people.

    All phrasings of every answer are known by construction, so that squeezing is measured exactly.
    """

    benchmark: Literal["closed_world"] = "closed_world"
    people: PositiveInt = 40
    """Invented people."""
    forget_people: PositiveInt = 4
    """People whose canonical answers form the forget set."""
    attributes: Annotated[int, Field(ge=1, le=4)] = 3
    """Facts per person, out of city, profession, prize and instrument."""
    values: Annotated[int, Field(ge=2, le=16)] = 12
    """Possible values per attribute."""
    phrasings: Annotated[int, Field(ge=2, le=5)] = 5
    """Answer templates per attribute; the first is canonical."""
    canonical_weight: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability of the canonical phrasing in the training text; the others share the rest evenly."""
    seed: int = 0
    """Seed of the world."""

    @model_validator(mode="after")
    def _some_people_are_retained(self) -> Self:
        if self.forget_people >= self.people:
            raise ValueError(
                f"forget_people ({self.forget_people}) must be smaller than people ({self.people}), or"
                " nothing is retained"
            )
        return self


class TofuData(Settings):
    """TOFU (fictitious authors), from the hub or from a local folder with one JSON file per split."""

    benchmark: Literal["tofu"] = "tofu"
    path: str = "locuslab/TOFU"
    """Hub id, or a local folder with `full.json`, `forget10.json`, `forget10_perturbed.json` and so on."""
    revision: str | None = None
    """Revision of the hub data set."""
    forget: Literal["forget01", "forget05", "forget10"] = "forget10"
    """Forget split; the retain split follows from it."""
    authors: Annotated[int, Field(ge=2, le=200)] | None = None
    """Keep only the last N authors (20 questions each), for small machines. All 200 when left out."""
    forget_authors: PositiveInt | None = None
    """With `authors`: the last N authors are forgotten, instead of the published split."""
    max_evaluation_items: PositiveInt | None = None
    """Most items per evaluation set, drawn by hash; all when left out."""

    @model_validator(mode="after")
    def _subset_is_whole(self) -> Self:
        # A published forget split need not lie within the last N authors.
        if (self.authors is None) != (self.forget_authors is None):
            raise ValueError("`authors` and `forget_authors` go together: give both or neither")
        authors, forget = self.authors, self.forget_authors
        if authors is not None and forget is not None and forget >= authors:
            raise ValueError(f"forget_authors ({forget}) must be smaller than authors ({authors})")
        return self


class LocalFilesData(Settings):
    """Your own JSON lines: one object with `prompt` and `response` per line."""

    benchmark: Literal["local_files"] = "local_files"
    forget: str
    """JSONL of what must be forgotten. Optional key `paraphrases`: other wordings of the response."""
    retain: str
    """JSONL of what must stay."""
    holdout: str | None = None
    """JSONL of similar text that no model was trained on, for comparison."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the evaluation items that the search uses (by hash of the item); the rest is kept for the
    report."""
    max_evaluation_items: PositiveInt | None = None
    """Most items per evaluation set, drawn by hash; all when left out."""


MuseForget = Literal["raw", "sust_1", "sust_2", "sust_3", "sust_4", "scal_1", "scal_2", "scal_3", "scal_4"]


class MuseData(Settings):
    """MUSE (news articles or Harry Potter books), from the hub or a folder with one JSON file per split."""

    benchmark: Literal["muse"] = "muse"
    path: str = "muse-bench/MUSE-News"
    """Hub id (the other is `muse-bench/MUSE-Books`), or a local folder that holds `raw/forget.json`,
    `knowmem/forget_qa.json` and so on."""
    revision: str | None = None
    """Revision of the hub data set."""
    forget: MuseForget = "raw"
    """The whole forget text (`raw`), or a request: each `scal_N` contains the one before; each `sust_N`
    follows the one before, and its `model.target` is the export of that sweep."""
    retain: Literal["retain1", "retain2"] = "retain1"
    """Text that is retained."""
    chunk_characters: Annotated[int, Field(ge=16)] = 8000
    """Longest training example in characters, of which an English token has about 4; texts of membership
    attacks are cut off there."""
    shots: Annotated[int, Field(ge=0, le=10)] = 10
    """Example questions in front of each question of KnowMem."""
    max_evaluation_items: PositiveInt | None = None
    """Most items per evaluation set, drawn by hash; all when left out."""


class WmdpData(Settings):
    """WMDP (hazardous knowledge): questions from the hub or a folder, and text from your own files."""

    benchmark: Literal["wmdp"] = "wmdp"
    path: str = "cais/wmdp"
    """Hub id, or a local folder that holds `wmdp-bio/test.json` and so on."""
    revision: str | None = None
    """Revision of the hub data set."""
    subset: Literal["bio", "cyber", "chem"] = "bio"
    """Field of the hazardous questions."""
    forget_corpus: str
    """JSONL of the field's documents, `text` in each line, which are forgotten."""
    retain_corpus: str
    """JSONL of other documents, `text` in each line, which are retained."""
    mmlu: str | None = None
    """General knowledge, as utility: hub id (`cais/mmlu`) or a local folder that holds `all/test.json`; not
    measured when left out."""
    document_characters: Annotated[int, Field(ge=16)] = 2000
    """Longest example in characters, of which an English token has about 4: each document is one example, as
    in RMU, and is cut off at a space."""
    max_documents: PositiveInt | None = None
    """Most documents of each corpus, from its start; all when left out."""
    max_evaluation_items: PositiveInt | None = None
    """Most items per evaluation set, drawn by hash; all when left out."""


DataSettings = Annotated[
    ClosedWorldData | TofuData | MuseData | WmdpData | LocalFilesData, Field(discriminator="benchmark")
]
