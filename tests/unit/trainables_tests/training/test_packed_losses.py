"""Packed micro-batches add up to the published loss of the whole batch."""

import pytest
import torch

from tests.support.training.dense_batches import (
    BELIEF_KINDS,
    CUTS,
    FORGET,
    PAIRS,
    assert_same,
    dense,
    goes_with,
    packed,
    packed_batches,
    settings,
)
from trainables.losses.methods import METHODS
from trainables.training.batch_packing import answer_tokens


def in_the_default_run(method, beliefs, cut):
    """Every method with all beliefs that it takes, cut into ranks and micro-batches; and NPO every way."""
    fullest = "token+sequence" if goes_with(method, "token") else "sequence"
    return method == "npo" or (beliefs == fullest and cut == (2, 2))


@pytest.mark.parametrize(
    ("method", "beliefs", "world_size", "micro_batch"),
    [
        pytest.param(name, kind, *cut, marks=[] if in_the_default_run(name, kind, cut) else pytest.mark.soak)
        for name in METHODS
        for kind in BELIEF_KINDS
        for cut in CUTS
        if goes_with(name, kind)
    ],
)
def test_micro_batches_add_up_to_the_published_loss(method, beliefs, world_size, micro_batch):
    assert_same(packed(settings(method, beliefs), world_size, micro_batch), dense(method, beliefs))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.preferred])
def test_preferred_answers_take_turns_from_epoch_to_epoch(method):
    assert_same(packed(settings(method, "sequence"), 2, 2, epoch=3), dense(method, "sequence", epoch=3))
    later, first = (dense(method, "sequence", epoch=epoch)[1]["lm_head.weight"] for epoch in (3, 0))
    assert not torch.equal(later, first)


def test_the_compared_batches_have_guarded_and_unguarded_belief_rows():
    tokens = answer_tokens([FORGET[forget] for forget, _ in PAIRS])
    assert 0 < dense("npo", "token")[2] < tokens


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 8), (3, 1)])
@pytest.mark.parametrize("method", ["graddiff", "npo"])
def test_kl_retain_adds_up_to_the_divergence_from_the_original_model(method, world_size, micro_batch):
    assert_same(
        packed(settings(method, "token+sequence", "kl"), world_size, micro_batch),
        dense(method, "token+sequence", "kl"),
    )


@pytest.mark.parametrize("beliefs", BELIEF_KINDS)
def test_micro_batches_add_up_when_the_head_is_tied_to_the_embedding(beliefs):
    assert_same(packed(settings("npo", beliefs), 2, 2, tied=True), dense("npo", beliefs, tied=True))


def test_no_retain_loss_leaves_the_forget_loss_alone():
    trial = settings("npo", "sequence", "none")
    assert [term.kind for term in packed_batches(trial).micro_batch(PAIRS, PAIRS)[1].terms] == [
        "forget",
        "forget",
    ]
    assert_same(packed(trial, 2, 2), dense("npo", "sequence", "none"))
