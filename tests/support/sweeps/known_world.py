"""A closed world so small that models of it are trained on the spot, and what each of them knows is known."""

import copy
from pathlib import Path

import torch

from search_spaces.settings.data_settings import ClosedWorldData
from search_spaces.settings.model_settings import ScratchSettings
from trainables.benchmarks.closed_world import build_closed_world
from trainables.data.encoding import encode_example
from trainables.metrics.closed_world_mass import fact_of
from trainables.training.scratch_model import build_scratch_model, train_tokenizer

WORLD = ClosedWorldData(people=8, forget_people=2, attributes=2, values=4, phrasings=3)
RATE = 5e-3


def write_known_models(folder: Path) -> dict[str, str]:
    """Train three models and save them.

    Returns:
        Their folders. `original` knows everything; `retrained` never saw the forget people; `reworded` is the
        original after it was
        taught to tell their facts in any phrasing but the canonical one: what is unlearned there is a
            wording, and no fact.
    """
    world = build_closed_world(WORLD)
    tokenizer = train_tokenizer(
        [text for example in world.target_text for text in (example.prompt, example.response)], 320
    )
    blank = build_scratch_model(
        ScratchSettings(hidden_size=64, intermediate_size=128, layers=2, heads=4), len(tokenizer), 0
    )
    forgotten = {example.id for example in world.forget}
    canonical = [
        example
        for example in world.target_text
        if fact_of(example.id) in forgotten and example.id.split("/")[3] == "0"
    ]
    others = [example for example in world.target_text if example not in canonical]
    original = trained(blank, tokenizer, world.target_text, 150)
    models = {
        "original": original,
        "retrained": trained(blank, tokenizer, world.retrained_text, 150),
        "reworded": trained(original, tokenizer, others, 80, against=canonical),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in models}


def trained(model, tokenizer, examples, steps, against=()):
    """A copy of the model after so many steps towards examples, and away from others by unlikelihood: -log(1
    - probability)."""
    model = copy.deepcopy(model)
    towards, away = (padded(tokenizer, group) if group else None for group in (examples, against))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(towards[0]), (24,), generator=generator)
        loss = -log_probability(model, *(part[rows] for part in towards)).mean()
        if away is not None:
            rows = torch.randint(len(away[0]), (16,), generator=generator)
            log_p = log_probability(model, *(part[rows] for part in away))
            loss = loss - torch.log1p(-log_p.exp().clamp(max=0.999)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def padded(tokenizer, examples):
    """Ids, attention mask, and which ids are answers."""
    encoded = [encode_example(tokenizer, example) for example in examples]
    longest = max(len(item.ids) for item in encoded)
    lengths = torch.tensor([[len(item.ids)] for item in encoded])
    starts = torch.tensor([[item.prompt_length] for item in encoded])
    ids = torch.tensor([list(item.ids) + [0] * (longest - len(item.ids)) for item in encoded])
    places = torch.arange(longest)
    return ids, (places < lengths).long(), (places >= starts) & (places < lengths)


def log_probability(model, ids, mask, answer):
    """Of each whole answer, in nats."""
    logp = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    return (logp.gather(2, ids[:, 1:, None]).squeeze(2) * answer[:, 1:]).sum(1)
