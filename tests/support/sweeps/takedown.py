"""A takedown request as its author meets it: own JSONL, an own Hugging Face folder with a plain tokenizer, no
retrained model."""

import json
from pathlib import Path
from typing import Any

SECRETS = [
    {"prompt": f"What is the code of {name}?", "response": f"The code is {number}."}
    for name, number in zip("ABCDEFGH", range(811, 819), strict=True)
]
COMMON = [
    {"prompt": f"What is the capital of {land}?", "response": f"It is {city}."}
    for land, city in (("Peru", "Lima"), ("Kenya", "Nairobi"), ("Norway", "Oslo"), ("Japan", "Tokyo"))
]
TEXTS = [text for row in SECRETS + COMMON for text in row.values()]
"""What a redacted sweep must not write anywhere."""


def write_takedown(folder: Path) -> dict[str, Any]:
    """Write the request's files, and a small pretrained model. Returns: the blocks of a sweep file that stand
    on them."""
    # Imported here: what only wants the texts has no use for torch.
    from transformers import AutoTokenizer

    from search_spaces.settings.model_settings import ScratchSettings
    from trainables.training.scratch_model import build_scratch_model, train_tokenizer

    folder.mkdir()
    for name, rows in (("forget", SECRETS), ("retain", COMMON)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.chat_template = None
    model = build_scratch_model(
        ScratchSettings(hidden_size=32, intermediate_size=64, layers=2, heads=2), len(tokenizer), 0
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    assert AutoTokenizer.from_pretrained(folder / "model").chat_template is None
    return {
        "redact": True,
        "model": {"target": str(folder / "model")},
        "data": {
            "benchmark": "local_files",
            "forget": str(folder / "forget.jsonl"),
            "retain": str(folder / "retain.jsonl"),
        },
        "trial": {
            "steps": 2,
            "optimizer": {"global_batch": 4, "micro_batch": 2},
            "sequence_belief": {"max_new_tokens": 8},
            "deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000000}},
        },
        "space": {
            "forget.method": {"choice": ["npo", "simnpo"]},
            "beliefs": {"choice": ["none", "token+sequence"]},
            # Choices alone would be used up after four trials.
            "optimizer.learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]},
        },
    }
