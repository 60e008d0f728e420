"""Whether what a model answers about the forget set reads like language: collapse must not pass for
forgetting.

Source: OU (`forget_Q_A_gibberish`), and the paper's fluency. Both judge the greedy answers to forget prompts.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from search_spaces.user_errors import UserError
from trainables.data.encoding import Encoded, encode_example
from trainables.data.examples import EvaluationPart, Example
from trainables.metrics.scoring import Scorer, score_responses

ANSWERED_SETS = ("forget", "verbmem")
"""Sets whose answers are judged: TOFU's questions about forgotten authors, MUSE's passages to continue."""
LABEL = "clean"
MAX_TOKENS = 100
"""As in OU: longer answers are judged by their beginning."""

Items = Mapping[str, Sequence[dict[str, Any]]]


def add_perplexity(original: Scorer, part: EvaluationPart, items: Items) -> None:
    """Add `generated_nll_nats` to answered items: nats per token of the answer under the original model, end
    token included.

    Args:
        original: The model before unlearning.
        part: Where the items come from.
        items: Items with `generated`, equal on every rank; changed in place, and equal again.

    None where there is nothing to score: running text that goes on with nothing. Ranks: all.
    """
    answered = _answered(part, items)
    encoded = [_encoded(original.tokenizer, example, item["generated"]) for example, item in answered]
    chosen = [index for index, found in enumerate(encoded) if found is not None]
    mine = score_responses(original, [found for found in encoded if found is not None])
    scores = dict(original.gather(list(mine.items())))
    for _, item in answered:
        item["generated_nll_nats"] = None
    for place, index in enumerate(chosen):
        answered[index][1]["generated_nll_nats"] = scores[place].nll_nats


def _encoded(tokenizer: PreTrainedTokenizerBase, example: Example, answer: str) -> Encoded | None:
    found = encode_example(tokenizer, example, answer)
    return found if len(found.ids) > found.prompt_length else None


def add_fluency(scorer: Scorer, folder: str, items: Items, part: EvaluationPart) -> None:
    """Add `fluency` to answered items: the probability that the classifier gives to `clean`.

    Args:
        scorer: Says which items are this rank's, and where the classifier may lie.
        folder: Folder or hub id of the classifier.
        items: Items with `generated`, equal on every rank; changed in place, and equal again.
        part: Where the items come from.

    Raises:
        UserError: The classifier cannot be loaded, or has no label `clean`.

    Ranks: all.
    """
    answered = [item for _, item in _answered(part, items)]
    mine = list(range(scorer.rank, len(answered), scorer.world_size))
    clean = classifier(folder)([answered[index]["generated"] for index in mine], scorer.batch)
    for index, value in scorer.gather(list(zip(mine, clean, strict=True))):
        answered[index]["fluency"] = value


class Classifier:
    """A text classifier that knows clean text from gibberish. On the CPU: it is small, and a GPU's memory is
    the trial's."""

    def __init__(self, folder: str) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            self._model = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            raise _refused(f"no classifier could be loaded: {error}", folder) from error
        labels = {str(label).lower(): int(index) for index, label in self._model.config.id2label.items()}
        if LABEL not in labels:
            raise _refused(f"the classifier has no label {LABEL}, but {', '.join(sorted(labels))}", folder)
        self._clean = labels[LABEL]

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int) -> list[float]:
        """Probability of `clean` for each text."""
        found: list[float] = []
        for start in range(0, len(texts), batch):
            chunk = list(texts[start : start + batch])
            inputs = self._tokenizer(
                chunk, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            found += self._model(**inputs).logits.float().softmax(-1)[:, self._clean].tolist()
        return found


@cache
def classifier(folder: str) -> Classifier:
    """The classifier of a worker, loaded once."""
    return Classifier(folder)


def _answered(part: EvaluationPart, items: Items) -> list[tuple[Example, dict[str, Any]]]:
    """Examples of the judged sets with their items, in the order of items."""
    found = []
    for name in ANSWERED_SETS:
        by_id = {example.id: example for example in part.sets.get(name, ())}
        found += [(by_id[item["id"]], item) for item in items.get(name, ()) if "generated" in item]
    return found


def _refused(message: str, folder: str) -> UserError:
    return UserError(
        message,
        key="evaluation.gibberish_model",
        value=folder,
        remedy=(
            "give a text classification model with a label `clean`, or set evaluation.fluency to perplexity"
        ),
    )
