"""One captured graph per token must say what the model says, also after its weights have changed where they
lie."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from trainables.engine.cuda_graph_decoding import StaticSteps
from trainables.engine.policy import Policy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

PROMPTS = [(5, 6, 7), (9, 8, 7, 6, 5, 4), (11,)]
CONTINUATIONS = [(3, 2, 9, 4), (7, 7, 7, 7), (2, 4, 6, 8)]


@torch.no_grad()
def test_replayed_steps_give_the_logits_of_a_whole_forward(tmp_path):
    torch.manual_seed(0)
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=300, hidden_size=64, intermediate_size=128, **shape)
    model = LlamaForCausalLM(config).cuda().eval()
    steps = StaticSteps(Policy(model), model.config, 3, 12, torch.device("cuda"))
    for _ in range(2):
        steps.begin(*prefilled(model))
        found = [
            steps.step(torch.tensor(column, device="cuda")).clone()
            for column in zip(*CONTINUATIONS, strict=True)
        ]
        for row, (prompt, continuation) in enumerate(zip(PROMPTS, CONTINUATIONS, strict=True)):
            whole = model(
                input_ids=torch.tensor([prompt + continuation], device="cuda"), use_cache=False
            ).logits[0, len(prompt) :]
            torch.testing.assert_close(
                torch.stack([logits[row] for logits in found]), whole, rtol=1e-3, atol=1e-3
            )
        for parameter in model.parameters():
            parameter.mul_(1.5)


def prefilled(model):
    longest = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in PROMPTS], device="cuda")
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS], device="cuda"
    )
    cache = DynamicCache(config=model.config)
    model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    return cache, mask
