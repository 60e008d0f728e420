import random

import pytest

from trainables.metrics.rouge import rouge_l_f1, rouge_l_recall


@pytest.mark.parametrize(
    ("reference", "generated", "recall"),
    [
        ("Born in Lima.", "Born in Lima.", 1.0),
        ("Born in Lima.", "", 0.0),
        ("Born in Lima.", "!?", 0.0),
        ("Born in Lima.", "lima in born", 1 / 3),
        ("Paris", "The Eiffel Tower is located in Paris, France.", 1.0),
        ("She writes novels", "writing a novel", 2 / 3),  # stems of words above three letters
        ("Lima", "Lima Lima Lima", 1.0),
    ],
)
def test_rouge_l_recall_matches_hand_computed_cases(reference, generated, recall):
    assert rouge_l_recall(reference, generated) == pytest.approx(recall)


@pytest.mark.parametrize(
    ("reference", "generated", "recall"),
    [
        ("Он родился в Москве в 1956", "Она родилась в Москве", 2 / 6),
        ("東京で生まれた", "東京です", 3 / 7),
        ("Γεννήθηκε στην Αθήνα", "γεννήθηκε στην αθήνα", 1.0),
    ],
)
def test_rouge_l_recall_knows_other_scripts(reference, generated, recall):
    assert rouge_l_recall(reference, generated) == pytest.approx(recall)


@pytest.mark.parametrize(
    ("reference", "generated", "f1"),
    [
        ("Born in Lima.", "Born in Lima.", 1.0),
        ("Born in Lima.", "", 0.0),
        ("Born in Lima.", "Oslo", 0.0),
        ("Paris", "The Eiffel Tower is located in Paris, France.", 2 / 9),  # recall 1, precision 1/8
        ("Lima", "Lima Lima Lima", 1 / 2),
        ("a b c d", "c d a b", 1 / 2),  # two subsequences are equally long
        ("the king of two lands", "the queen of two", 2 / 3),  # recall 3/5, precision 3/4
        ("東京で生まれた", "東京です", 6 / 11),
    ],
)
def test_rouge_l_f1_matches_hand_computed_cases(reference, generated, f1):
    assert rouge_l_f1(reference, generated) == pytest.approx(f1)


def slow_f1(reference, generated):
    """By the plain recursion for the longest common subsequence."""
    lengths = [[0] * (len(generated) + 1) for _ in range(len(reference) + 1)]
    for row, left in enumerate(reference, 1):
        for column, right in enumerate(generated, 1):
            longest = max(lengths[row - 1][column], lengths[row][column - 1])
            lengths[row][column] = lengths[row - 1][column - 1] + 1 if left == right else longest
    return 2 * lengths[-1][-1] / (len(reference) + len(generated))


def test_rouge_l_f1_matches_a_slow_reference():
    chance = random.Random(0)
    for _ in range(100):
        reference, generated = (
            [chance.choice("abcd") for _ in range(chance.randint(1, 12))] for _ in range(2)
        )
        assert rouge_l_f1(" ".join(reference), " ".join(generated)) == pytest.approx(
            slow_f1(reference, generated)
        )


def test_rouge_l_recall_judges_latin_text_with_accents_as_published():
    assert rouge_l_recall("Roberto Bolaño", "Roberto Bola o") == 1.0


@pytest.mark.parametrize("reference", ["", "...", "🙂"])
def test_rouge_l_is_none_when_the_reference_has_no_word(reference):
    assert rouge_l_recall(reference, "anything") is rouge_l_f1(reference, "anything") is None
