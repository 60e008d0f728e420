import pytest
import torch

from search_spaces.settings.trial_settings import EngineSettings
from tests.support.training.plain_engine import PlainEngine, run_ranks
from trainables.data.collate import collate
from trainables.data.encoding import Encoded, encode, encode_prompt
from trainables.generation import inference as inference_module
from trainables.generation.inference import inference

PROMPTS = ["Where was Kalo born?", "Say it", "Where was Miren born?", "Wo lebt Zoë?", "Nothing?"]
ANSWERS = [
    ["Born in Lima.", "Yes", ""],
    ["Yes"],
    ["Born in Oslo.", "Works as a baker."],
    ["In Łódź, 東京 🙂.", "Yes"],
    ["", "Works as a baker."],
]
MODES = ["gathered", "lockstep"]


def opened(engine, mode="gathered", weights="policy"):
    return inference(engine, EngineSettings(inference=mode, head_chunk_tokens=3), weights)


def prompts_of(tiny):
    return [encode_prompt(tiny.tokenizer, prompt) for prompt in PROMPTS]


def continuations_of(tiny):
    groups = []
    for prompt, answers in zip(PROMPTS, ANSWERS, strict=True):
        encoded = [encode(tiny.tokenizer, prompt, answer) for answer in answers]
        groups.append([ids[length:] for ids, length in encoded])
    return groups


@pytest.fixture
def engine(tiny):
    return PlainEngine(tiny.model, tiny.tokenizer)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_new_tokens", [1, 4, 24])
def test_greedy_generation_equals_a_slow_loop_without_a_cache(tiny, engine, mode, max_new_tokens):
    with opened(engine, mode) as model:
        assert model.generate(prompts_of(tiny), max_new_tokens) == tiny.scorer().generate(
            prompts_of(tiny), max_new_tokens
        )


def test_compared_generations_are_long_short_and_truncated(tiny):
    lengths = [len(ids) for (ids,) in tiny.scorer().generate(prompts_of(tiny), 24)]
    assert min(lengths) < 4 < max(lengths) < 24
    assert len({len(prompt) for prompt in prompts_of(tiny)}) > 2


def test_left_padding_changes_nothing(tiny, engine):
    prompts = prompts_of(tiny)
    seen = []

    def choose(logits, position):
        seen.append(logits.clone())
        return logits.argmax(-1)

    with opened(engine) as model:
        together = model.generate(prompts, 3, choose)
        padded, seen = seen, []
        for row, prompt in enumerate(prompts):
            assert model.generate([prompt], 3, choose) == together[row : row + 1]
            for position, logits in enumerate(seen):
                torch.testing.assert_close(padded[position][row], logits[0], rtol=1e-5, atol=1e-5)
            seen = []


def test_samples_of_a_prompt_are_rows_next_to_each_other(tiny, engine):
    ends = tiny.tokenizer.eos_token_id
    script = torch.tensor([[10, 11, 12, 13], [20, ends, 22, 23], [30, 31, ends, 33]])

    def choose(logits, position):
        assert logits.shape[0] == 4
        return script[position]

    with opened(engine) as model:
        assert model.generate(prompts_of(tiny)[:2], 3, choose, samples=2) == [
            [(10, 20, 30), (11, ends)],
            [(12, 22, ends), (13, 23, 33)],
        ]


def test_samples_see_what_was_chosen_for_them(tiny, engine):
    prompt, chosen = prompts_of(tiny)[0], torch.tensor([70, 80, 90])
    seen = []

    def choose(logits, position):
        seen.append(logits)
        return chosen

    with opened(engine) as model:
        model.generate([prompt], 2, choose, samples=3)
    for row, token in enumerate(chosen.tolist()):
        expected = tiny.scorer().logp([*prompt, token])[-1].float()
        torch.testing.assert_close(seen[1][row].log_softmax(-1), expected, rtol=1e-5, atol=1e-5)


def test_generation_stops_when_every_row_has_ended(tiny, engine):
    with opened(engine, "lockstep") as model:
        (answer,) = model.generate([prompts_of(tiny)[1]], 40)[0]
    assert answer[-1] == tiny.tokenizer.eos_token_id
    assert engine.events == ["forward"] * len(answer)


@pytest.fixture(params=["as trees", "with a shared prompt"])
def way(request, monkeypatch):
    """Both ways of scoring continuations: which one a model takes depends on its family."""
    monkeypatch.setattr(inference_module, "can_run_trees", lambda config: request.param == "as trees")
    return request.param


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taken", [slice(0, 5), slice(1, 2), slice(1, 4)])
def test_continuations_score_as_each_response_alone(tiny, engine, mode, taken, way):
    prompts, groups = prompts_of(tiny)[taken], continuations_of(tiny)[taken]
    with opened(engine, mode) as model:
        scores = model.score_continuations(prompts, groups)
    expected = tiny.scorer().score_continuations(prompts, groups)
    assert [len(row) for row in scores] == [len(group) for group in groups]
    for row, slow in zip(scores, expected, strict=True):
        assert row == pytest.approx(slow, rel=1e-6, abs=1e-6)


def test_continuations_of_one_token_need_no_second_row(tiny, engine, way):
    prompts = prompts_of(tiny)[:2]
    with opened(engine) as model:
        scores = model.score_continuations(prompts, [[(7,), (8,)], [(9,)]])
    assert scores[0] == pytest.approx(
        [float(tiny.scorer().logp(prompts[0])[-1, token]) for token in (7, 8)], rel=1e-6
    )
    assert scores[1] == pytest.approx([float(tiny.scorer().logp(prompts[1])[-1, 9])], rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_answer_stats_match_one_sequence_at_a_time(tiny, engine, mode):
    items = [
        Encoded(prompt, *encode(tiny.tokenizer, prompt, answers[0]))
        for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)
    ]
    with opened(engine, mode) as model:
        logp, best = model.answer_stats(collate(items, pad_id=tiny.tokenizer.eos_token_id))
    tables = torch.cat([tiny.scorer().logp(item.ids)[item.prompt_length - 1 : -1] for item in items])
    targets = torch.tensor([token for item in items for token in item.answer])
    torch.testing.assert_close(logp, tables.gather(1, targets.unsqueeze(1)).squeeze(1), rtol=1e-8, atol=1e-10)
    assert best.tolist() == tables.argmax(-1).tolist()


@pytest.mark.parametrize("mode", MODES)
def test_answer_moments_match_one_sequence_at_a_time(tiny, engine, mode):
    items = [
        Encoded(prompt, *encode(tiny.tokenizer, prompt, answers[0]))
        for prompt, answers in zip(PROMPTS, ANSWERS, strict=True)
    ]
    batch = collate(items, pad_id=tiny.tokenizer.eos_token_id)
    with opened(engine, mode) as model:
        logp, best, mean, deviation = model.answer_moments(batch)
        assert all(torch.equal(*pair) for pair in zip((logp, best), model.answer_stats(batch), strict=True))
    table = torch.cat([tiny.scorer().logp(item.ids)[item.prompt_length - 1 : -1] for item in items])
    expected = (table.exp() * table).sum(-1)
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(
        deviation**2, (table.exp() * table**2).sum(-1) - expected**2, rtol=1e-6, atol=1e-9
    )


def test_empty_calls_return_nothing_but_call_the_model(tiny, engine, way):
    calls = {
        "generate": lambda model: model.generate([], 1),
        "samples": lambda model: model.generate([], 1, samples=3),
        "score": lambda model: model.score_continuations([], []),
        "stats": lambda model: model.answer_stats(collate([], pad_id=0))[0].tolist(),
        "moments": lambda model: model.answer_moments(collate([], pad_id=0))[2].tolist(),
    }
    forwards = {"generate": 1, "samples": 1, "score": 1 if way == "as trees" else 2, "stats": 1, "moments": 1}
    with opened(engine, "lockstep") as model:
        for name, call in calls.items():
            engine.events.clear()
            assert call(model) == []
            assert len(engine.events) == forwards[name], name


def test_lockstep_ranks_call_the_model_equally_often_whatever_they_have_to_do(tiny, way):
    prompts, groups = prompts_of(tiny), continuations_of(tiny)
    shares = [slice(0, 3), slice(4, 5), slice(5, 5)]  # long answers, one that ends soon, and nothing

    def work(engine):
        mine = shares[engine.rank]
        with opened(engine, "lockstep") as model:
            return model.generate(prompts[mine], 24), model.score_continuations(prompts[mine], groups[mine])

    results, engines = run_ranks(tiny.model, 3, work, tiny.tokenizer)
    assert [generated for generated, _ in results] == [
        tiny.scorer().generate(prompts[mine], 24) for mine in shares
    ]
    assert [[len(row) for row in scores] for _, scores in results] == [[3, 1, 2], [2], []]
    assert len({len(engine.events) for engine in engines}) == 1


@pytest.mark.parametrize("mode", MODES)
def test_pristine_weights_are_scored_apart_from_the_policy(tiny, engine, mode):
    prompts, groups = prompts_of(tiny)[:1], continuations_of(tiny)[:1]
    scores = {}
    with torch.no_grad():
        engine.models["policy"].lm_head.weight.mul_(0)
    for weights in ("policy", "pristine"):
        with opened(engine, mode, weights) as model:
            scores[weights] = model.score_continuations(prompts, groups)[0]
    uniform = -torch.tensor(float(len(tiny.tokenizer))).log().item()
    assert scores["policy"] == pytest.approx([uniform * len(ids) for ids in groups[0]], rel=1e-6)
    assert scores["pristine"] == pytest.approx(
        tiny.scorer().score_continuations(prompts, groups)[0], rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize("mode", MODES)
def test_no_gradients_are_recorded_while_a_model_is_open(tiny, engine, mode):
    with opened(engine, mode) as model:
        assert not torch.is_grad_enabled()
        assert not model.answer_stats(collate([Encoded("x", (5, 6, 7), 1)], pad_id=0))[0].requires_grad
    assert torch.is_grad_enabled()


def test_opened_model_shows_its_place_among_the_ranks(engine):
    engine.rank, engine.world_size = 1, 2
    with inference(engine, EngineSettings(evaluation_batch=5)) as model:
        assert (model.rank, model.world_size, model.batch, model.lockstep) == (1, 2, 5, False)
