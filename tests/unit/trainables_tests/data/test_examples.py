import pytest

from trainables.data.examples import (
    EvaluationPart,
    Example,
    draw_by_hash,
    make_benchmark,
    split_by_hash,
    split_sets,
)


def items(count):
    return [Example(f"item{number}", f"prompt {number}", f"response {number}") for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_split_divides_items_in_halves(count):
    validation, test = split_by_hash(items(count), 0.5)
    assert abs(len(validation) - len(test)) <= 1
    assert {item.id for item in validation} | {item.id for item in test} == {item.id for item in items(count)}


def test_split_does_not_depend_on_the_order_of_the_file():
    assert split_by_hash(items(20), 0.5) == split_by_hash(items(20)[::-1], 0.5)


def test_draw_by_hash_grows_without_replacing():
    assert draw_by_hash(items(50), 10) == draw_by_hash(items(50), 20)[:10]
    assert len(draw_by_hash(items(5), 10)) == 5


def test_split_sets_leaves_empty_sets_out():
    parts = split_sets({"forget": items(4), "holdout": []}, 0.5, None)
    assert set(parts["validation"].sets) == set(parts["test"].sets) == {"forget"}


def test_digest_changes_with_any_content():
    def digest(forget=(), text=(), part=None):
        return make_benchmark(forget, items(1), text, [], {"test": part or EvaluationPart()}).digest

    digests = [
        digest(),
        digest(forget=items(1)),
        digest(text=items(1)),
        digest(part=EvaluationPart(sets={"forget": tuple(items(1))})),
    ]
    assert len(set(digests)) == 4
    assert digest() == digests[0]
