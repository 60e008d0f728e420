"""ROUGE-L of a generated answer: recall, and its F1 with precision."""

import re
from functools import cache, lru_cache

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import Score
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

# Scripts written without spaces: every sign counts as a word, or a whole sentence would be one.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


class StemmedWords(Tokenizer):
    """rouge-score's words, each kind stemmed once: references come again at every evaluation, and stemming
    took a fifth of its time."""

    def __init__(self) -> None:
        self._plain = DefaultTokenizer(use_stemmer=False)
        self._stem = lru_cache(maxsize=2**16)(DefaultTokenizer(use_stemmer=True).tokenize)

    def tokenize(self, text: str) -> list[str]:
        """Stemmed words."""
        return [stem for word in self._plain.tokenize(text) for stem in self._stem(word)]


class UnicodeWords(Tokenizer):
    """Words in any script."""

    def tokenize(self, text: str) -> list[str]:
        """Lower-cased words."""
        return WORD.findall(text.lower())


def rouge_l_recall(reference: str, generated: str) -> float | None:
    """Longest common subsequence of words over the number of words in the reference.

    Args:
        reference: The true answer.
        generated: The model's answer; an empty one scores 0.

    Returns:
        A value in [0, 1]; None where the reference has no word at all.

    Source: OU (rouge-score with stemming). Deviation: rouge-score only knows a-z and 0-9, so text in another
    script would score 0 or be judged by its digits alone; a reference whose letters are mostly outside a-z is
    compared word by word in its own script.
    """
    score = _rouge_l(reference, generated)
    return None if score is None else float(score.recall)


def rouge_l_f1(reference: str, generated: str) -> float | None:
    """Harmonic mean of `rouge_l_recall` and its counterpart over the words of the answer; 0 where no word is
    common.

    Args:
        reference: The true text.
        generated: The model's text; an empty one scores 0.

    Returns:
        A value in [0, 1]; None where the reference has no word at all.

    Source: MUSE (arXiv 2407.06460), as OU computes it. Deviation: OU, and we, stem words, MUSE's own code
    does not; scripts as for the recall.
    """
    score = _rouge_l(reference, generated)
    return None if score is None else float(score.fmeasure)


def _rouge_l(reference: str, generated: str) -> Score | None:
    letters = [letter for letter in reference if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters) * 2 > len(letters)
    words = UnicodeWords() if foreign else _stemmed_words()
    if not words.tokenize(reference):
        return None
    scorer = _any_script() if foreign else _published()
    return scorer.score(reference, generated)["rougeL"]


@cache
def _stemmed_words() -> Tokenizer:
    return StemmedWords()


@cache
def _published() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=_stemmed_words())


@cache
def _any_script() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=UnicodeWords())
