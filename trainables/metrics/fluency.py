"""Fluency of the answers to forget prompts, so that collapse into gibberish does not pass for forgetting.

Source: OU (`forget_Q_A_gibberish`), and the paper's fluency. Both score the greedy answers to forget prompts.
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
"""Label of the classifier whose probability is the fluency."""
MAX_TOKENS = 100
"""Tokens of an answer that the classifier sees, as in OU; longer answers are truncated."""

Items = Mapping[str, Sequence[dict[str, Any]]]


def add_perplexity(original: Scorer, part: EvaluationPart, items: Items) -> None:
    """Add `generated_nll_nats` to answered items: the answer's mean NLL per token under the original model.

    The end token counts. The value is None for an empty answer to running text, which has no token to score.

    Args:
        original: The model before unlearning.
        part: Evaluation part of the items.
        items: Items with `generated`, equal on every rank; changed in place, and equal again.

    Ranks: all.
    """
    answered = _answered(part, items)
    # Encoded behind its prompt: the perplexity is that of the answer given the question.
    encoded = [_encoded(original.tokenizer, example, item["generated"]) for example, item in answered]
    chosen = [index for index, found in enumerate(encoded) if found is not None]
    mine = score_responses(original, [found for found in encoded if found is not None])
    scores = dict(original.gather(list(mine.items())))
    # Set on every item first: one without a scored token must have the field too.
    for _, item in answered:
        item["generated_nll_nats"] = None
    for place, index in enumerate(chosen):
        answered[index][1]["generated_nll_nats"] = scores[place].nll_nats


def _encoded(tokenizer: PreTrainedTokenizerBase, example: Example, answer: str) -> Encoded | None:
    found = encode_example(tokenizer, example, answer)
    return found if len(found.ids) > found.prompt_length else None


def add_fluency(scorer: Scorer, folder: str, items: Items, part: EvaluationPart) -> None:
    """Add `fluency` to answered items: the classifier's probability of the label `clean`.

    Args:
        scorer: Gives the rank, the world size, the batch size and the gather.
        folder: Folder or hub id of the classifier.
        items: Items with `generated`, equal on every rank; changed in place, and equal again.
        part: Evaluation part of the items.

    Raises:
        UserError: The classifier cannot be loaded, or has no label `clean`.

    Ranks: all.
    """
    answered = [item for _, item in _answered(part, items)]
    # The classifier is not sharded, so each rank works through its own share without the others.
    mine = list(range(scorer.rank, len(answered), scorer.world_size))
    clean = classifier(folder)([answered[index]["generated"] for index in mine], scorer.batch)
    for index, value in scorer.gather(list(zip(mine, clean, strict=True))):
        answered[index]["fluency"] = value


class Classifier:
    """A text classifier that separates clean text from gibberish.

    It runs on the CPU, since it is small and the GPU's memory belongs to the trial.
    """

    def __init__(self, folder: str) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder)
            self._model = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True
            ).eval()
        except (OSError, ValueError) as error:
            # transformers raises ValueError for a configuration that is not a sequence classifier.
            raise _refused(f"no classifier could be loaded: {error}", folder) from error
        # Labels are compared in lower case: classifiers spell them `clean`, `Clean` or `CLEAN`.
        labels = {str(label).lower(): int(index) for index, label in self._model.config.id2label.items()}
        if LABEL not in labels:
            raise _refused(f"the classifier has no label {LABEL}, but {', '.join(sorted(labels))}", folder)
        self._clean = labels[LABEL]

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int) -> list[float]:
        """Return the probability of `clean` for each text."""
        clean: list[float] = []
        for start in range(0, len(texts), batch):
            chunk = list(texts[start : start + batch])
            inputs = self._tokenizer(
                chunk, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
            )
            clean += self._model(**inputs).logits.float().softmax(-1)[:, self._clean].tolist()
        return clean


@cache
def classifier(folder: str) -> Classifier:
    """Load a classifier; a worker process keeps it for all its evaluations."""
    return Classifier(folder)


def _answered(part: EvaluationPart, items: Items) -> list[tuple[Example, dict[str, Any]]]:
    """Pair the items of the answered sets with their examples, in the order of items."""
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
