import pytest
import torch
from transformers import DynamicCache

from tests.support.training.plain_engine import PlainEngine
from trainables.engine.cuda_graph_decoding import COLUMNS, StaticSteps, can_be_captured
from trainables.engine.policy import Policy

PROMPTS = [(5, 6, 7), (9, 8, 7, 6, 5, 4), (11,)]


@pytest.fixture
def engine(tiny):
    return PlainEngine(tiny.model, tiny.tokenizer)


def prefilled(model, prompts):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    cache = DynamicCache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    return cache, mask


@torch.no_grad()
def check_decoding(steps, model, prompts, continuations):
    """Asserts that the logits after each token are those of a whole forward pass over one sequence."""
    steps.begin(*prefilled(model, prompts))
    found = [steps.step(torch.tensor(column)).clone() for column in zip(*continuations, strict=True)]
    for row, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        output = model(input_ids=torch.tensor([prompt + continuation]), use_cache=False)
        whole = output.logits[0, len(prompt) :].float()
        stepwise = torch.stack([logits[row] for logits in found])
        torch.testing.assert_close(stepwise, whole, rtol=1e-5, atol=1e-5)


def test_each_step_gives_the_logits_of_a_whole_forward_whatever_is_padded(tiny, engine):
    steps = StaticSteps(Policy(tiny.model), tiny.model.config, 3, 12, engine.device)
    check_decoding(steps, tiny.model, PROMPTS, [(3, 2, 9, 4), (7, 7, 7, 7), (2, 4, 6, 8)])


def test_steps_are_used_again_without_a_trace_of_the_batch_before(tiny, engine):
    steps = StaticSteps(Policy(tiny.model), tiny.model.config, 3, 12, engine.device)
    check_decoding(steps, tiny.model, PROMPTS, [(3, 2, 9, 4), (7, 7, 7, 7), (2, 4, 6, 8)])
    check_decoding(steps, tiny.model, [(4,), (3, 3), (9, 2)], [(1, 2), (3, 4), (5, 6)])


def test_the_cache_is_filled_to_its_last_column_and_no_further(tiny, engine):
    steps = StaticSteps(Policy(tiny.model), tiny.model.config, 1, 12, engine.device)
    check_decoding(steps, tiny.model, [(5, 6)], [tuple(range(3, 1 + COLUMNS))])
    with pytest.raises(AssertionError, match="full"), torch.no_grad():
        steps.step(torch.tensor([3]))


def test_steps_fit_batches_of_their_size_that_are_not_much_shorter(tiny, engine):
    steps = StaticSteps(Policy(tiny.model), tiny.model.config, 3, 3 * COLUMNS - 5, engine.device)
    assert steps.columns == 3 * COLUMNS
    assert steps.fits(3, 3 * COLUMNS) and steps.fits(3, 2 * COLUMNS)
    assert not steps.fits(2, 100) and not steps.fits(3, 3 * COLUMNS + 1) and not steps.fits(3, COLUMNS)


def test_only_plain_decoders_on_a_gpu_are_captured(tiny):
    config, gpu = tiny.model.config, torch.device("cuda")
    assert can_be_captured(config, gpu)
    assert not can_be_captured(config, torch.device("cpu"))
    for change in (
        {"sliding_window": 128},
        {"layer_types": ["sliding_attention"]},
        {"rope_parameters": {"rope_type": "dynamic"}},
    ):
        assert not can_be_captured(changed(config, **change), gpu), change
    assert not can_be_captured(changed(config, model_type="mixtral"), gpu)
    other = changed(config)
    other._attn_implementation = "eager"
    assert not can_be_captured(other, gpu)


def changed(config, **values):
    other = type(config).from_dict(config.to_dict())
    other._attn_implementation = config._attn_implementation
    for name, value in values.items():
        setattr(other, name, value)
    return other
