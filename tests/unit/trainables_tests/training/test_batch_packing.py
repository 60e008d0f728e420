import functools
from dataclasses import replace

import pytest
import torch

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from search_spaces.settings.trial_settings import TrialSettings
from tests.support.dense_losses import (
    belief_loss,
    gradient,
    pair_loss,
    published_loss,
    retain_loss,
    row_loss,
    slow_mixtures,
    token_nll,
)
from tests.support.plain_engine import (
    PlainEngine,
    answer_logits,
    answer_logps,
    half_memorised,
    random_examples,
    random_llama,
)
from trainables.data.batches import share
from trainables.data.encoding import Encoded
from trainables.generation.sequence_beliefs import Belief
from trainables.losses.methods import METHODS, LogitMethod, PreferenceMethod
from trainables.training.batch_packing import PackedBatches, answer_tokens
from trainables.training.trial import steering_of

FORGET = half_memorised(
    random_llama(0), random_examples("forget", [(3, 4), (2, 1), (5, 6), (1, 2), (2, 3), (4, 2)], seed=1)
)
RETAIN = random_examples("retain", [(2, 5), (4, 1), (1, 3), (3, 3)], seed=2)
PAIRS = [(4, 1), (0, 3), (2, 0), (1, 1), (3, 2)]
"""Retain example 1 twice; forget example 5 is in another batch."""
CUTS = [(1, 8), (2, 2), (3, 1)]
"""Ranks and micro-batch: whole, and cut so that some micro-batches have fewer pairs or none."""
BELIEF_KINDS = ["none", "token", "sequence", "token+sequence"]


def settings(method="npo", beliefs="none", retain="nll", **changes):
    return TrialSettings.model_validate(
        {
            "forget": {
                "method": method,
                "weight": 0.7,
                "npo": {"beta": 0.4},
                "simnpo": {"delta": 0.3},
                "tnpo": {"beta": 0.7},
                "steering": {"layer": 0},
            },
            "retain": {"loss": "activations" if CATALOGUE[method].activations else retain, "weight": 1.3},
            "beliefs": beliefs,
            "token_belief": {"weight": 0.3, "top_k": 5, "temperature": 2.0},
            "sequence_belief": {"weight": 0.4},
            "engine": {"head_chunk_tokens": 3},
        }
        | changes
    )


def belief_store(original):
    """Unequal numbers of samples, one of them drawn twice, one of them a single token."""
    store = {}
    for index, item in enumerate(FORGET):
        prompt = item.ids[: item.prompt_length]
        answers = [
            sample.ids
            for sample in random_examples(
                "sample", [(2, 3), (0, 1), (1, index + 1)][: 1 + index % 3], seed=index
            )
        ]
        encoded = [Encoded(item.id, prompt + answer, len(prompt)) for answer in [*answers, answers[0]]]
        store[item.id] = tuple(Belief(sample, shifted(original, sample, 0.5)) for sample in encoded)
    return store


def preferred_store(original):
    """One or two answers to each prompt."""
    store = {}
    for index, item in enumerate(FORGET):
        prompt = item.ids[: item.prompt_length]
        answers = [
            sample.ids
            for sample in random_examples(
                "preferred", [(1, 2), (0, index + 1)][: 1 + index % 2], seed=20 + index
            )
        ]
        encoded = [Encoded(item.id, prompt + answer, len(prompt)) for answer in answers]
        store[item.id] = tuple(Belief(sample, shifted(original, sample, -0.25)) for sample in encoded)
    return store


def shifted(model, item, by):
    """Log-probabilities of a response's tokens, its first one moved."""
    first, *others = answer_logps(model, item)
    return (first + by, *others)


@functools.cache
def world(tied=False):
    """Policy, original model, reference log-probabilities, beliefs and preferred answers."""
    policy, original = random_llama(0, tied=tied), random_llama(5, tied=tied)
    # Closer to the policy than the original model is, or NPO's weights are all 0 or 2.
    shifts = [3.0, -2.0, 5.0, 0.5, -4.0, 1.0]
    reference = {item.id: shifted(policy, item, shift) for item, shift in zip(FORGET, shifts, strict=True)}
    return policy, original, reference, belief_store(policy), preferred_store(policy)


def packed_batches(trial, tied=False):
    policy, _, reference, beliefs, preferred = world(tied)
    steering = steering_of(PlainEngine(policy), trial)
    return PackedBatches(
        trial, FORGET, RETAIN, reference, beliefs if trial.sequence_beliefs else None, preferred, steering
    )


def rows_of(model, items):
    """Logits, targets and response of each answer row of some sequences, one sequence at a time."""
    rows = [answer_logits(model, item) for item in items]
    responses = torch.repeat_interleave(
        torch.arange(len(items)), torch.tensor([len(targets) for _, targets in rows])
    )
    return torch.cat([logits for logits, _ in rows]), torch.cat([targets for _, targets in rows]), responses


def layer_outputs(model, item, layer):
    """What a layer gives at the answer rows of one unpadded sequence."""
    return model(input_ids=torch.tensor([item.ids]), output_hidden_states=True).hidden_states[layer + 1][
        0, item.prompt_length - 1 : -1
    ]


def steered_group(policy, items, wanted, layer):
    """RMU's distance to a vector, or to the activations of another model, averaged over each response and
    over responses."""
    distances = []
    for item in items:
        found = layer_outputs(policy, item, layer)
        goal = wanted if isinstance(wanted, torch.Tensor) else layer_outputs(wanted, item, layer).detach()
        distances.append(((found - goal) ** 2).mean(-1).mean())
    return torch.stack(distances).mean()


def dense_steered(models, trial, targets, samples):
    """The whole loss of a method on activations."""
    policy, original = models
    direction = torch.rand(16, generator=torch.Generator().manual_seed(trial.seed), dtype=torch.float64)
    goal = trial.forget.steering.coefficient * direction / direction.norm()
    loss = steered_group(policy, targets, goal, 0)
    if samples:
        share_s = trial.sequence_belief.weight
        loss = (1 - share_s) * loss + share_s * steered_group(policy, samples, goal, 0)
    retained = steered_group(policy, [RETAIN[index] for _, index in PAIRS], original, 0)
    return trial.forget.weight * loss + trial.retain.weight * retained


def dense_group(models, items, references, sides, trial):
    """The published loss of one group of responses, divided by its own count, and how many rows the guard
    changed."""
    policy, original = models
    logits, targets, responses = rows_of(policy, items)
    method, settings = METHODS[trial.forget.method], trial.forget
    count = {"sequences": len(items), "tokens": len(targets), "later_tokens": len(targets) - len(items)}[
        method.unit
    ]
    if isinstance(method, LogitMethod):
        with torch.no_grad():
            known, _, _ = rows_of(original, items)
        return row_loss(logits, targets, responses, settings, known) / count, 0
    flat = torch.tensor([value for values in references for value in values], dtype=torch.float64)

    def base(nll, fixed=False):
        if not isinstance(method, PreferenceMethod):
            return published_loss(nll, responses, flat, settings)
        pairs = [
            ((nll[responses == index], -flat[responses == index]), side) for index, side in enumerate(sides)
        ]
        return sum(
            pair_loss(mine, [part.detach() for part in side] if fixed else side, settings)
            for mine, side in pairs
        )

    nll = token_nll(logits, targets)
    loss, guarded = base(nll), 0
    if trial.token_beliefs:
        _, (slopes,) = gradient(lambda nll: base(nll, fixed=True), nll)
        weights = -slopes.detach()
        loss = loss + belief_loss(logits, targets, weights, trial.token_belief) + (weights * nll).sum()
        guarded = int(slow_mixtures(logits, targets, trial.token_belief)[1].sum())
    return loss / count, guarded


def preferred_side(policy, belief):
    """A preferred answer's token losses under policy and reference."""
    logits, targets = answer_logits(policy, belief.encoded)
    return token_nll(logits, targets), -torch.tensor(belief.reference_logp_nats, dtype=torch.float64)


@functools.cache
def dense(method, beliefs, retain="nll", tied=False, epoch=0):
    """Loss, gradients by parameter and guarded rows of the whole global batch, straight from the formula, one
    sequence at a time."""
    trial = settings(method, beliefs, retain)
    policy, original, reference, store, preferred = world(tied)
    targets = [FORGET[forget] for forget, _ in PAIRS]
    names, parameters = zip(*policy.named_parameters(), strict=True)
    if CATALOGUE[method].activations:
        samples = (
            [belief.encoded for item in targets for belief in store[item.id]]
            if trial.sequence_beliefs
            else []
        )
        loss = dense_steered((policy, original), trial, targets, samples)
        return (
            loss.detach(),
            dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True)),
            0,
        )
    # Once for all pairs: transformers' norm is in float32, so two forwards of one answer have gradients that
    # add up only roughly.
    answers = [
        preferred_side(policy, preferred[item.id][epoch % len(preferred[item.id])]) for item in targets
    ]
    loss, guarded = dense_group(
        (policy, original), targets, [reference[item.id] for item in targets], answers, trial
    )
    if trial.sequence_beliefs:
        samples = [
            (belief, answer)
            for item, answer in zip(targets, answers, strict=True)
            for belief in store[item.id]
        ]
        encoded, references = (
            [belief.encoded for belief, _ in samples],
            [belief.reference_logp_nats for belief, _ in samples],
        )
        belief_part, more = dense_group(
            (policy, original), encoded, references, [answer for _, answer in samples], trial
        )
        share_s = trial.sequence_belief.weight
        loss, guarded = (1 - share_s) * loss + share_s * belief_part, guarded + more
    loss = trial.forget.weight * loss
    if method != "ga" and retain != "none":
        retained, tokens = torch.zeros((), dtype=torch.float64), 0
        for _, index in PAIRS:
            logits, answer = answer_logits(policy, RETAIN[index])
            with torch.no_grad():
                original_logits, _ = answer_logits(original, RETAIN[index])
            retained, tokens = (
                retained + retain_loss(retain, logits, answer, original_logits),
                tokens + len(answer),
            )
        loss = loss + trial.retain.weight * retained / tokens
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)), guarded


def packed(trial, world_size, micro_batch, tied=False, epoch=0):
    """The same through packed micro-batches, summed over ranks."""
    policy, original, *_ = world(tied)
    engine = PlainEngine(policy)
    engine.models["pristine"] = original
    parts = packed_batches(trial, tied)
    loss, guarded = torch.zeros((), dtype=torch.float64), 0
    for rank in range(world_size):
        for pairs in share(PAIRS, rank, world_size, micro_batch):
            batch, plan = parts.micro_batch(pairs, PAIRS, epoch)
            output = engine.backward(
                batch, engine.with_reference(batch, plan) if parts.needs_reference_pass else plan
            )
            loss += output.loss.detach()
            guarded += sum(term.guarded_rows for term in output.terms)
    return (
        loss,
        {name: parameter.grad for name, parameter in engine.models["policy"].named_parameters()},
        guarded,
    )


def assert_same(actual, expected):
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=0)
    assert actual[1].keys() == expected[1].keys()
    for name, wanted in expected[1].items():
        if wanted is None:
            assert actual[1][name] is None or not actual[1][name].any(), name
            continue
        torch.testing.assert_close(actual[1][name], wanted, rtol=1e-8, atol=1e-11, msg=f"gradient of {name}")
    assert actual[2] == expected[2]


def goes_with(method, beliefs):
    """Whether a method takes these beliefs."""
    return CATALOGUE[method].token_beliefs or "token" not in beliefs


@pytest.mark.parametrize(("world_size", "micro_batch"), CUTS)
@pytest.mark.parametrize(
    ("method", "beliefs"),
    [(name, kind) for name in METHODS for kind in BELIEF_KINDS if goes_with(name, kind)],
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


def test_gradient_ascent_has_no_retain_term_whatever_the_settings_say():
    for retain in ("nll", "kl"):
        parts = packed_batches(settings("ga", retain=retain))
        assert parts.retain_kind is None
        batch, plan = parts.micro_batch(PAIRS, PAIRS)
        assert [term.kind for term in plan.terms] == ["forget"]
        assert batch.num_sequences == len(PAIRS)


def test_missing_retain_partners_are_left_out():
    trial = settings("graddiff")
    parts = PackedBatches(trial, FORGET, [], {})
    assert parts.retain_kind is None
    assert [term.kind for term in parts.micro_batch([(0, -1)], [(0, -1)])[1].terms] == ["forget"]


def test_coefficients_divide_by_the_global_count_of_the_unit_of_each_method():
    _, _, _, store, _ = world()
    beliefs = [belief.encoded for forget, _ in PAIRS for belief in store[FORGET[forget].id]]
    retain = 1.3 / answer_tokens([RETAIN[index] for _, index in PAIRS])
    counts = {
        "graddiff": (answer_tokens([FORGET[forget] for forget, _ in PAIRS]), answer_tokens(beliefs)),
        "npo": (len(PAIRS), len(beliefs)),
        "ceu": (
            answer_tokens([FORGET[forget] for forget, _ in PAIRS]) - len(PAIRS),
            answer_tokens(beliefs) - len(beliefs),
        ),
    }
    for method, (targets, samples) in counts.items():
        _, plan = packed_batches(settings(method, "sequence")).micro_batch(PAIRS[:1], PAIRS)
        assert [term.coefficient for term in plan.terms] == pytest.approx(
            [0.7 * 0.6 / targets, 0.7 * 0.4 / samples, retain], rel=1e-14
        )


def test_an_empty_micro_batch_has_every_term_without_rows_and_gradients_of_zero():
    trial = settings("npo", "token+sequence")
    batch, plan = packed_batches(trial).micro_batch([], PAIRS)
    assert [(term.kind, term.rows) for term in plan.terms] == [
        (kind, slice(0, 0)) for kind in ("forget", "forget", "nll")
    ]
    engine = PlainEngine(world()[0])
    assert float(engine.backward(batch, plan).loss.detach()) == 0
    assert all(
        parameter.grad is not None and not parameter.grad.any() for parameter in engine.policy.parameters()
    )


def test_a_global_batch_without_pairs_divides_by_nothing():
    _, plan = packed_batches(settings("graddiff", "sequence")).micro_batch([], [])
    assert all(term.coefficient < float("inf") for term in plan.terms)


def test_references_and_partners_are_those_of_the_packed_responses():
    _, plan = packed_batches(settings("dpo", "sequence")).micro_batch(PAIRS[:2], PAIRS)
    _, _, reference, beliefs, preferred = world()
    targets, samples, answers, retain = plan.terms
    assert targets.reference_logp_N.tolist() == [*reference["forget/4"], *reference["forget/0"]]
    drawn = [beliefs[f"forget/{index}"] for index in ("4", "0")]
    assert samples.reference_logp_N.tolist() == [
        value for group in drawn for belief in group for value in belief.reference_logp_nats
    ]
    assert answers.reference_logp_N.tolist() == [
        value for index in ("4", "0") for value in preferred[f"forget/{index}"][0].reference_logp_nats
    ]
    assert (targets.partner_S.tolist(), samples.partner_S.tolist()) == (
        [0, 1],
        [0] * len(drawn[0]) + [1] * len(drawn[1]),
    )
    assert (retain.reference_logp_N, retain.partner_S) == (None, None)


def test_moved_retain_weight_takes_the_place_of_the_fixed_one():
    parts = packed_batches(settings("pdu"))
    fixed, moved = (
        other.micro_batch(PAIRS, PAIRS)[1].terms[-1].coefficient
        for other in (parts, replace(parts, retain_weight=5.0))
    )
    assert moved == pytest.approx(fixed * 5.0 / 1.3)


def test_token_beliefs_are_in_the_plan_only_where_asked():
    assert packed_batches(settings("npo", "sequence")).micro_batch(PAIRS, PAIRS)[1].token_belief is None
    trial = settings("npo", "token")
    assert packed_batches(trial).micro_batch(PAIRS, PAIRS)[1].token_belief == trial.token_belief


def test_answer_tokens_counts_answers_without_prompts():
    assert answer_tokens(FORGET) == 4 + 1 + 6 + 2 + 3 + 2
    assert answer_tokens([]) == 0


def test_neighbours_are_alike_in_length_and_no_pair_is_lost():
    packed_batches = PackedBatches(settings(), FORGET, RETAIN, {})
    ordered = packed_batches.longest_first([*PAIRS, (5, -1)])
    lengths = [
        max(len(FORGET[forget].ids), len(RETAIN[retain].ids) if retain >= 0 else 0)
        for forget, retain in ordered
    ]
    assert sorted(ordered) == sorted([*PAIRS, (5, -1)]) and lengths == sorted(lengths, reverse=True)
    assert packed_batches.longest_first(list(reversed(ordered))) == ordered, "whatever order they come in"
