import pytest
import torch

from search_spaces.settings.trial_settings import TokenBeliefSettings
from tests.support.training.dense_losses import belief_loss, gradient, random_rows, slow_belief, slow_mixtures
from trainables.losses.residuals import target_residual, token_logp
from trainables.losses.token_belief import belief, belief_residual, nucleus_size, top_tokens

VOCABULARY = 11
VARIANTS = [
    TokenBeliefSettings(weight=0.3, top_k=4),
    TokenBeliefSettings(weight=0.3, top_k=4, temperature=2.0),
    TokenBeliefSettings(weight=0.3, top_k=4, temperature=2.0, guard_target=False),
    TokenBeliefSettings(weight=0.6, top_k=3, temperature=0.5, exclude_target=True),
    TokenBeliefSettings(weight=0.6, top_k=3, exclude_target=True, guard_target=False),
    TokenBeliefSettings(weight=1.0, top_k=200, temperature=1.5, exclude_target=True),
    TokenBeliefSettings(weight=0.2, top_k=1, guard_target=True),
    TokenBeliefSettings(weight=0.3, top_k=200, top_p=0.9, temperature=2.0),
    TokenBeliefSettings(weight=0.4, top_k=3, top_p=0.7, exclude_target=True),
    TokenBeliefSettings(weight=0.4, top_k=5, top_p=1e-9, guard_target=False),
]


def rows(seed=0, sharpness=3.0):
    logits, targets, _ = random_rows([7, 5], VOCABULARY, seed=seed, sharpness=sharpness)
    weights = torch.linspace(0.1, 2, len(targets), dtype=torch.float64)
    return logits, targets, weights


@pytest.mark.parametrize("settings", VARIANTS, ids=repr)
@pytest.mark.parametrize("sharpness", [1.0, 3.0, 8.0])
def test_belief_residual_is_the_gradient_of_the_mixture_loss(settings, sharpness):
    logits, targets, weights = rows(sharpness=sharpness)
    extra, residual, guarded = belief_residual(logits, targets, weights, settings)
    expected, (expected_gradient,) = gradient(lambda z: belief_loss(z, targets, weights, settings), logits)
    torch.testing.assert_close(
        (weights * token_logp(logits, targets) + extra).sum(), expected, rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(residual, expected_gradient, rtol=1e-10, atol=1e-12)
    assert guarded.tolist() == slow_mixtures(logits, targets, settings)[1].tolist()


@pytest.mark.parametrize("settings", VARIANTS, ids=repr)
def test_belief_is_the_renormalised_softmax_of_the_top_tokens(settings):
    logits, targets, _ = rows()
    found = belief(logits, targets, settings)
    expected = torch.stack(
        [slow_belief(row, target, settings) for row, target in zip(logits, targets.tolist(), strict=True)]
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


def test_belief_leaves_its_logits_alone():
    logits, targets, weights = rows()
    before = logits.clone()
    belief_residual(logits, targets, weights, TokenBeliefSettings(exclude_target=True))
    assert torch.equal(logits, before)


def top(scores, count):
    """The mask of as many top tokens in each row."""
    return top_tokens(scores, scores.topk(count).values, torch.full((len(scores), 1), count))


def test_nucleus_is_the_fewest_tokens_that_have_the_mass():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.94, 0.03, 0.02, 0.01]])
    for top_p, sizes in [(0.5, [1, 1]), (0.51, [2, 1]), (0.94, [3, 1]), (0.96, [4, 2]), (1e-12, [1, 1])]:
        assert nucleus_size(probabilities.log(), torch.zeros(2, 1), top_p).flatten().tolist() == sizes
    q = belief(probabilities.log(), torch.tensor([3, 3]), TokenBeliefSettings(top_p=0.51))
    torch.testing.assert_close(q, torch.tensor([[0.625, 0.375, 0, 0], [1, 0, 0, 0]]))


def test_top_tokens_take_the_lowest_indices_when_scores_tie():
    scores = torch.tensor([[1.0, 3.0, 1.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0, 5.0]])
    assert top(scores, 3).int().tolist() == [[1, 1, 0, 0, 1], [1, 1, 1, 0, 0]]


def test_top_tokens_agree_with_a_sort_when_bfloat16_makes_many_ties():
    scores = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    expected = torch.zeros_like(scores, dtype=torch.bool).scatter_(
        1, scores.argsort(dim=-1, descending=True, stable=True)[:, :40], True
    )
    assert torch.equal(top(scores, 40), expected)


def test_belief_of_weight_zero_is_the_base_method():
    logits, targets, weights = rows()
    extra, residual, guarded = belief_residual(
        logits, targets, weights, TokenBeliefSettings(weight=0, temperature=2)
    )
    assert extra.abs().max() == 0 and not guarded.any()
    torch.testing.assert_close(residual, target_residual(logits, targets, weights), rtol=1e-12, atol=1e-15)


def test_belief_in_the_whole_vocabulary_at_temperature_one_only_shrinks_gradient_ascent():
    logits, targets, weights = rows()
    _, residual, _ = belief_residual(
        logits, targets, weights, TokenBeliefSettings(weight=0.3, top_k=VOCABULARY)
    )
    torch.testing.assert_close(
        residual, 0.7 * target_residual(logits, targets, weights), rtol=1e-10, atol=1e-14
    )


def test_belief_of_twenty_tokens_on_a_peaked_model_hardly_turns_gradient_ascent():
    logits, targets, _ = random_rows([40], 500, sharpness=6)
    ones = torch.ones(40, dtype=torch.float64)
    _, residual, _ = belief_residual(logits, targets, ones, TokenBeliefSettings())
    cosines = torch.cosine_similarity(residual, target_residual(logits, targets, ones))
    assert cosines.min() > 0.9999


def test_belief_adds_its_own_mass_to_the_residual_of_gradient_ascent():
    logits, targets, _ = rows()
    ones, settings = torch.ones(len(targets), dtype=torch.float64), TokenBeliefSettings(weight=0.4, top_k=5)
    _, residual, _ = belief_residual(logits, targets, ones, settings)
    q = belief(logits, targets, settings)
    at_target = torch.nn.functional.one_hot(targets, VOCABULARY)
    torch.testing.assert_close(
        residual - target_residual(logits, targets, ones), 0.4 * (q - at_target), rtol=1e-10, atol=1e-14
    )


def test_another_token_goes_down_just_where_its_belief_outweighs_its_probability():
    logits, targets, _ = rows()
    ones, settings = torch.ones(len(targets), dtype=torch.float64), TokenBeliefSettings(weight=0.8, top_k=4)
    _, residual, _ = belief_residual(logits, targets, ones, settings)
    top_mass = logits.softmax(-1).masked_fill(belief(logits, targets, settings) == 0, 0).sum(-1)
    others = torch.nn.functional.one_hot(targets, VOCABULARY) == 0
    in_belief = (belief(logits, targets, settings) > 0) & others
    assert torch.equal(residual[in_belief] > 0, (top_mass < 0.8).unsqueeze(1).expand_as(residual)[in_belief])
    assert (residual[others & ~in_belief] < 0).all()


def target_row(probability):
    """One row of a three-token vocabulary whose target, token 0, has the given probability."""
    return torch.tensor(
        [[probability, (1 - probability) * 0.75, (1 - probability) * 0.25]], dtype=torch.float64
    ).log()


@pytest.mark.parametrize(("probability", "reinforced"), [(0.79, False), (0.81, True)])
def test_unguarded_belief_without_the_target_reinforces_it_beyond_one_minus_lambda(probability, reinforced):
    settings = TokenBeliefSettings(weight=0.2, exclude_target=True, guard_target=False)
    _, residual, guarded = belief_residual(
        target_row(probability), torch.tensor([0]), torch.ones(1).double(), settings
    )
    assert (residual[0, 0].item() < 0) is reinforced
    assert not guarded.any()


def test_unguarded_belief_at_temperature_two_reinforces_a_memorised_token():
    settings = TokenBeliefSettings(weight=0.2, temperature=2.0, guard_target=False)
    _, residual, _ = belief_residual(target_row(0.999), torch.tensor([0]), torch.ones(1).double(), settings)
    assert residual[0, 0] < 0


@pytest.mark.parametrize(
    "changed",
    [{"temperature": 2.0}, {"exclude_target": True}, {"top_k": 2, "temperature": 3.0, "guard_target": True}],
    ids=str,
)
def test_guard_floors_the_residual_at_the_target_at_zero(changed):
    settings = TokenBeliefSettings(weight=0.2, **changed)
    logits = torch.cat([target_row(0.5), target_row(0.999), target_row(1 - 1e-9)]).float()
    _, residual, guarded = belief_residual(logits, torch.zeros(3, dtype=torch.long), torch.ones(3), settings)
    assert guarded.tolist() == [False, True, True]
    assert residual[0, 0] > 0 and residual[1:, 0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(residual.sum(-1), torch.zeros(3), rtol=0, atol=1e-6)


def test_guard_is_off_by_default_where_the_published_form_cannot_reinforce():
    assert not TokenBeliefSettings().guards
    assert TokenBeliefSettings(temperature=0.9).guards and TokenBeliefSettings(exclude_target=True).guards
    logits, targets, weights = rows(sharpness=8.0)
    _, residual, _ = belief_residual(logits, targets, weights, TokenBeliefSettings(weight=0.9, top_k=3))
    assert residual.gather(1, targets.unsqueeze(1)).min() > -1e-12


def test_belief_residual_is_finite_in_float32_when_the_target_is_certain():
    logits = torch.tensor([[200.0, 0.0, -50.0]])
    for settings in VARIANTS:
        extra, residual, _ = belief_residual(logits, torch.tensor([0]), torch.ones(1), settings)
        assert torch.isfinite(extra).all() and torch.isfinite(residual).all()


@pytest.mark.parametrize("settings", VARIANTS, ids=repr)
def test_belief_residual_keeps_what_is_left_of_a_memorised_token_in_float32(settings):
    logits, targets, ones = torch.tensor([[30.0, 1.0, 0.0]]), torch.tensor([0]), torch.ones(1)
    extra, residual, guarded = belief_residual(logits, targets, ones, settings)
    exact_extra, exact_residual, exactly_guarded = belief_residual(
        logits.double(), targets, ones.double(), settings
    )
    torch.testing.assert_close(residual.double(), exact_residual, rtol=1e-4, atol=0)
    torch.testing.assert_close(extra.double(), exact_extra, rtol=1e-4, atol=0)
    assert torch.equal(guarded, exactly_guarded)


def test_belief_of_a_vocabulary_smaller_than_top_k_holds_all_of_it():
    logits, targets, _ = rows()
    q = belief(logits[:, :3], targets % 3, TokenBeliefSettings(top_k=20, exclude_target=True))
    assert (q > 0).sum(-1).tolist() == [2] * len(targets)


def test_belief_of_no_rows_is_empty():
    extra, residual, guarded = belief_residual(
        torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), torch.zeros(0), TokenBeliefSettings()
    )
    assert (extra.shape, residual.shape, guarded.shape) == ((0,), (0, 5), (0,))
