import pytest
import torch
from scipy.stats import chisquare

from search_spaces.settings.trial_settings import EngineSettings, SequenceBeliefSettings
from tests.support.training.plain_engine import PlainEngine, answer_logps, run_ranks
from trainables.data.encoding import Encoded, encode
from trainables.generation.sequence_beliefs import Belief, GumbelMax, sample_beliefs

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -3.0, 1.5])
CPU = torch.device("cpu")
PAIRS = [
    ("Where was Kalo born?", "Born in Lima."),
    ("Nothing?", ""),
    ("Where was Miren born?", "Born in Oslo."),
    ("Say it", "Yes"),
    ("What does Kalo do?", "Works as a baker."),
]


def draws(settings, logits, streams=100, positions=200):
    """Tokens drawn for one row of logits."""
    draw = GumbelMax(settings, [f"stream {index}" for index in range(streams)], CPU)
    return torch.cat([draw(logits.expand(streams, -1), position) for position in range(positions)])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_the_temperature(temperature):
    counts = draws(SequenceBeliefSettings(temperature=temperature), LOGITS).bincount(minlength=len(LOGITS))
    expected = (LOGITS.double() / temperature).softmax(-1) * counts.sum()
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_first_draws_of_different_streams_follow_the_softmax_too():
    counts = draws(SequenceBeliefSettings(), LOGITS, streams=4000, positions=1).bincount(
        minlength=len(LOGITS)
    )
    expected = LOGITS.double().softmax(-1) * counts.sum()
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_draws_of_neighbouring_positions_and_streams_are_independent():
    tokens = draws(SequenceBeliefSettings(), torch.zeros(2)).view(200, 100).double() * 2 - 1
    for one, other in [(tokens[1:], tokens[:-1]), (tokens[:, 1:], tokens[:, :-1])]:
        assert abs(float((one * other).mean())) < 4 / one.numel() ** 0.5


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"top_k": 3}, [0, 1, 6]),
        ({"top_k": 1}, [0]),
        ({"top_k": 99}, [0, 1, 2, 3, 4, 5, 6]),
        # Masses in order: token 0 has .44, 6 .27, 1 .16, 4 .10: three of them reach .8.
        ({"top_p": 0.8}, [0, 1, 6]),
        ({"top_p": 0.01}, [0]),
        # Flattened by the temperature first: .23, .20, .18, .16 and so on.
        ({"top_p": 0.5, "temperature": 4.0}, [0, 1, 6]),
        ({"top_k": 4, "top_p": 0.6}, [0, 6]),
    ],
)
def test_draws_come_from_the_top_tokens_alone_in_their_proportions(changes, allowed):
    settings = SequenceBeliefSettings(**changes)
    counts = draws(settings, LOGITS).bincount(minlength=len(LOGITS))
    assert counts.nonzero().flatten().tolist() == allowed
    kept = (LOGITS[allowed].double() / settings.temperature).softmax(-1) * counts.sum()
    if len(allowed) > 1:
        assert chisquare(counts[allowed].numpy(), kept.numpy()).pvalue > 1e-3


def sequence_of_draws(streams, positions=12):
    draw = GumbelMax(SequenceBeliefSettings(), streams, CPU)
    tokens = torch.stack(
        [draw(torch.zeros(len(streams), 50), position) for position in range(positions)], dim=1
    )
    return dict(zip(streams, tokens.tolist(), strict=True))


def test_draws_of_a_stream_do_not_depend_on_its_neighbours():
    together = sequence_of_draws(["0/0/a/0", "0/0/a/1", "0/0/b/0"])
    assert sequence_of_draws(["0/0/b/0", "0/0/a/1"]) == {
        stream: together[stream] for stream in ("0/0/b/0", "0/0/a/1")
    }
    assert len({tuple(tokens) for tokens in together.values()}) == 3


def test_draws_leave_the_global_random_state_alone():
    state = torch.random.get_rng_state()
    sequence_of_draws(["0/0/a/0"])
    assert torch.equal(torch.random.get_rng_state(), state)


def forget_set(tiny):
    return [Encoded(f"{index}", *encode(tiny.tokenizer, *pair)) for index, pair in enumerate(PAIRS)]


def sampled(engine, forget, *, mode="gathered", batch=4, seed=0, refresh=0, with_reference=False, **changes):
    settings = SequenceBeliefSettings.model_validate({"num_samples": 3, "max_new_tokens": 8} | changes)
    engine_settings = EngineSettings(inference=mode, evaluation_batch=batch)
    return sample_beliefs(
        engine, forget, settings, engine_settings, seed=seed, refresh=refresh, with_reference=with_reference
    )


def answers(store):
    return {example: [belief.encoded.answer for belief in beliefs] for example, beliefs in store.items()}


@pytest.fixture(scope="module")
def alone(tiny):
    """The store of a single rank that samples one prompt at a time."""
    return sampled(PlainEngine(tiny.model, tiny.tokenizer), forget_set(tiny), batch=1)


def test_every_example_has_its_own_samples_of_its_own_prompt(tiny, alone):
    assert {example: len(beliefs) for example, beliefs in alone.items()} == {
        f"{index}": 3 for index in range(len(PAIRS))
    }
    for item in forget_set(tiny):
        for belief in alone[item.id]:
            assert belief.encoded.id == item.id
            assert belief.encoded.prompt_length == item.prompt_length
            assert belief.encoded.ids[: item.prompt_length] == item.ids[: item.prompt_length]
            assert belief.reference_logp_nats is None


@pytest.mark.parametrize("mode", ["gathered", "lockstep"])
@pytest.mark.parametrize(("world_size", "batch"), [(1, 64), (2, 4), (2, 64), (3, 6)])
def test_beliefs_do_not_depend_on_ranks_or_batches(tiny, alone, world_size, batch, mode):
    stores, engines = run_ranks(
        tiny.model,
        world_size,
        lambda engine: sampled(engine, forget_set(tiny), mode=mode, batch=batch),
        tiny.tokenizer,
    )
    assert stores == [alone] * world_size
    assert len({len(engine.events) for engine in engines}) == 1


def test_beliefs_do_not_depend_on_the_other_examples(tiny, alone):
    store = sampled(PlainEngine(tiny.model, tiny.tokenizer), forget_set(tiny)[3:1:-1])
    assert store == {example: alone[example] for example in ("3", "2")}


@pytest.mark.parametrize("changes", [{"seed": 1}, {"refresh": 1}])
def test_another_seed_or_refresh_gives_other_beliefs(tiny, alone, changes):
    forget = forget_set(tiny)
    assert answers(sampled(PlainEngine(tiny.model, tiny.tokenizer), forget, **changes)) != answers(alone)


def test_first_samples_stay_when_more_are_drawn(tiny, alone):
    more = answers(sampled(PlainEngine(tiny.model, tiny.tokenizer), forget_set(tiny), num_samples=5))
    assert {example: samples[:3] for example, samples in more.items()} == answers(alone)


def test_empty_truncated_and_repeated_samples_are_kept(tiny):
    end = tiny.tokenizer.eos_token_id
    store = answers(
        sampled(PlainEngine(tiny.model, tiny.tokenizer), forget_set(tiny), num_samples=12, max_new_tokens=3)
    )
    every = [answer for samples in store.values() for answer in samples]
    assert [len(samples) for samples in store.values()] == [12] * len(PAIRS)
    assert (end,) in every
    assert any(len(answer) == 3 and end not in answer for answer in every)
    assert any(len(set(samples)) < len(samples) for samples in store.values())
    assert all(end not in answer[:-1] for answer in every)


def test_cold_samples_are_the_greedy_answers(tiny):
    forget = forget_set(tiny)
    store = sampled(PlainEngine(tiny.model, tiny.tokenizer), forget, top_k=1, num_samples=2)
    prompts = [item.ids[: item.prompt_length] for item in forget]
    for item, greedy in zip(forget, tiny.scorer().generate(prompts, 8), strict=True):
        assert [belief.encoded.answer for belief in store[item.id]] == greedy * 2


@pytest.mark.parametrize("mode", ["gathered", "lockstep"])
def test_references_are_those_of_the_pristine_model(tiny, mode):
    def work(engine):
        with torch.no_grad():
            engine.models["policy"].lm_head.weight.mul_(0.7)
        return sampled(engine, forget_set(tiny), mode=mode, with_reference=True)

    stores, _ = run_ranks(tiny.model, 2, work, tiny.tokenizer)
    assert stores[0] == stores[1]
    for belief in (belief for beliefs in stores[0].values() for belief in beliefs):
        assert isinstance(belief, Belief)
        assert belief.reference_logp_nats == pytest.approx(answer_logps(tiny.model, belief.encoded), rel=1e-9)


def test_beliefs_come_from_the_policy_as_it_is_now(tiny):
    engine = PlainEngine(tiny.model, tiny.tokenizer)
    with torch.no_grad():
        engine.models["policy"].lm_head.weight.zero_()
    every = [
        token
        for samples in answers(sampled(engine, forget_set(tiny), num_samples=8)).values()
        for ids in samples
        for token in ids
    ]
    assert len(set(every)) > 100  # uniform over the vocabulary


def test_more_ranks_than_examples_keep_step(tiny, alone):
    stores, engines = run_ranks(
        tiny.model, 3, lambda engine: sampled(engine, forget_set(tiny)[:2], mode="lockstep"), tiny.tokenizer
    )
    assert stores == [{example: alone[example] for example in ("0", "1")}] * 3
    assert len({len(engine.events) for engine in engines}) == 1
