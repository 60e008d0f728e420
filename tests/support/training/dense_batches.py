"""A small batch with every kind of group, and its loss by dense formulas and by packed micro-batches."""

import functools

import torch

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from search_spaces.settings.trial_settings import TrialSettings
from tests.support.training.dense_losses import (
    belief_loss,
    gradient,
    pair_loss,
    published_loss,
    retain_loss,
    row_loss,
    slow_mixtures,
    token_nll,
)
from tests.support.training.plain_engine import (
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
from trainables.training.batch_packing import PackedBatches
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
        preferred_side(policy, preferred[item.id][epoch % len(preferred[item.id])])
        if isinstance(METHODS[method], PreferenceMethod)
        else None
        for item in targets
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
                original_logits = answer_logits(original, RETAIN[index])[0] if retain == "kl" else None
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
