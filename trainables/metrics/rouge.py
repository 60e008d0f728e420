"""ROUGE-L of a generated answer: recall and F1."""

import re
from functools import cache, lru_cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import Score
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

# Scripts written without spaces (Thai, Chinese, Japanese, ...): every character counts as a word, since a
# whole sentence would otherwise be one word.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


class StemmedWords(Tokenizer):
    """rouge-score's tokenizer with stemming, which stems each distinct word once.

    The same references come at every evaluation, and stemming took a fifth of an evaluation's time.
    """

    def __init__(self) -> None:
        self._plain = DefaultTokenizer(use_stemmer=False)
        self._stem = lru_cache(maxsize=2**16)(DefaultTokenizer(use_stemmer=True).tokenize)

    def tokenize(self, text: str) -> list[str]:
        """Return the stemmed words of a text."""
        return [stem for word in self._plain.tokenize(text) for stem in self._stem(word)]


class UnicodeWords(Tokenizer):
    """Splits text in any script into words."""

    def tokenize(self, text: str) -> list[str]:
        """Return the lower-cased words of a text."""
        return WORD.findall(text.lower())


def rouge_l_recall(reference: str, generated: str) -> float | None:
    """ROUGE-L recall: length of the longest common subsequence of words over the reference's word count.

    Args:
        reference: The true answer.
        generated: The model's answer; an empty one scores 0.

    Returns:
        A value in [0, 1]; None for a reference without words.

    Source: OU (rouge-score with stemming). Deviation: rouge-score drops everything but a-z and 0-9, so text
        in
    another script would score 0 or by its digits alone; a reference whose letters are mostly outside a-z is
    compared word by word in its own script.
    """
    score = _rouge_l(reference, generated)
    return None if score is None else float(score.recall)


def rouge_l_f1(reference: str, generated: str) -> float | None:
    """ROUGE-L F1: harmonic mean of recall and precision; 0 where no word is common.

    Args:
        reference: The true text.
        generated: The model's text; an empty one scores 0.

    Returns:
        A value in [0, 1]; None for a reference without words.

    Source: MUSE (arXiv 2407.06460), as OU computes it. Deviation: OU and this function stem words, MUSE's own
    code does not; scripts are treated as in `rouge_l_recall`.
    """
    score = _rouge_l(reference, generated)
    return None if score is None else float(score.fmeasure)


def _rouge_l(reference: str, generated: str) -> Score | None:
    letters = [letter for letter in reference if letter.isalpha()]
    # By the majority of letters: a name with an accent does not change how an English answer is scored.
    foreign = sum(not letter.isascii() for letter in letters) * 2 > len(letters)
    words = UnicodeWords() if foreign else _stemmed_words()
    if not words.tokenize(reference):
        return None
    scorer = _any_script() if foreign else _published()
    return scorer.score(reference, generated)["rougeL"]


# Scorers and tokenizers are made once per process, so that their caches of stems last.
@cache
def _stemmed_words() -> Tokenizer:
    return StemmedWords()


@cache
def _published() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=_stemmed_words())


@cache
def _any_script() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=UnicodeWords())
