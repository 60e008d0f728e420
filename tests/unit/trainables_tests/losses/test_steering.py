import pytest
import torch

from search_spaces.user_errors import UserError
from tests.support.training.plain_engine import random_examples, random_llama
from trainables.data.collate import collate
from trainables.engine.policy import Policy
from trainables.losses.head_plan import HeadPlan, HeadTerm, Steering
from trainables.losses.steering import random_direction, steer, steered_layer

BATCH = collate(random_examples("a", [(2, 3), (4, 1)], seed=1), pad_id=0)


def plan_of(*terms, reference=None):
    return HeadPlan(
        torch.zeros(4, dtype=torch.long),
        terms,
        steering=Steering(0, torch.tensor([1.0, 0.0])),
        reference=reference,
    )


def term(kind, coefficient=1.0):
    return HeadTerm(slice(0, 4), kind, coefficient, torch.tensor([0, 0, 0, 1]), torch.tensor([3, 1]))


def test_distance_is_averaged_over_hidden_size_and_then_over_each_response():
    activations = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 4.0], [3.0, 0.0]], requires_grad=True)
    output = steer(activations, plan_of(term("forget", 0.5)))
    assert output.loss.item() == pytest.approx(0.5 * ((0 + 2 + 8) / 3 + 2))
    assert (output.terms[0].loss, output.terms[0].rows) == (pytest.approx(16 / 3), 4)
    output.loss.backward()
    torch.testing.assert_close(activations.grad, torch.tensor([[0, 0], [0, 1 / 3], [0, 2 / 3], [1.0, 0]]))


def test_retained_activations_are_held_to_those_of_the_reference():
    activations = torch.ones(4, 2)
    held = steer(activations, plan_of(term("activations"), reference=(torch.zeros(4, 2), torch.zeros(0))))
    assert held.loss.item() == pytest.approx(2.0)
    with pytest.raises(AssertionError, match="held to those of the reference"):
        steer(activations, plan_of(term("activations")))
    with pytest.raises(AssertionError, match="needs a head"):
        steer(activations, plan_of(term("nll")))


def test_no_rows_give_a_loss_of_zero_with_gradients():
    activations = torch.zeros(0, 2, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    plan = HeadPlan(
        nothing,
        (HeadTerm(slice(0, 0), "forget", 1.0, nothing, nothing),),
        steering=Steering(0, torch.ones(2)),
    )
    output = steer(activations, plan)
    output.loss.backward()
    assert (output.loss.item(), tuple(activations.grad.shape)) == (0.0, (0, 2))


def test_direction_is_fixed_by_the_seed_and_has_the_given_length():
    first, again, other = (random_direction(64, 3.0, seed) for seed in (1, 1, -1))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert first.norm().item() == pytest.approx(3.0) and (first >= 0).all()


def test_layer_left_out_is_the_seventh_or_half_the_depth():
    assert [steered_layer(None, depth) for depth in (2, 8, 16, 32)] == [1, 4, 7, 7]
    assert steered_layer(0, 32) == 0


def test_activations_are_those_of_the_whole_model_and_layers_above_do_not_run():
    model = random_llama()
    policy, above = Policy(model), []
    model.model.layers[1].register_forward_hook(lambda *_: above.append(1))
    found = policy.activations(BATCH, 0)
    assert above == [] and model.config.num_hidden_layers == 2
    whole = model(
        input_ids=BATCH.input_ids_BL, attention_mask=BATCH.attention_mask_BL, output_hidden_states=True
    )
    torch.testing.assert_close(found, whole.hidden_states[1].flatten(0, 1)[BATCH.rows_N])


def test_activation_checkpointing_keeps_the_graph():
    policies = [Policy(random_llama()) for _ in range(2)]
    policies[1].model.train()
    policies[1].model.gradient_checkpointing_enable({"use_reentrant": True})
    policies[1].model.enable_input_require_grads()
    for policy in policies:
        policy.activations(BATCH, 1).square().sum().backward()
    plain, checkpointed = (policy.model.model.layers[0].mlp.up_proj.weight.grad for policy in policies)
    torch.testing.assert_close(checkpointed, plain)


def test_layer_that_the_model_does_not_have_is_refused():
    with pytest.raises(
        UserError, match=r"steering.layer: the model has no such layer \(given: 2\). Allowed: 0 to 1"
    ):
        Policy(random_llama()).activations(BATCH, 2)


def test_family_without_a_final_norm_is_refused():
    model = random_llama()
    model.model.last = model.model._modules.pop("norm")
    with pytest.raises(UserError, match="activations cannot be taken from this family"):
        Policy(model).activations(BATCH, 0)
