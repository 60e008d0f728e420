"""A takedown request as its author meets it: own JSONL, an own Hugging Face folder, no retrained model."""

import json

import pytest
import yaml

from tests.integration.launch import lethe


@pytest.fixture
def request_files(tmp_path):
    """A small pretrained model with a plain tokenizer, and two JSONL files."""
    from transformers import AutoTokenizer

    from search_spaces.model_settings import ScratchSettings
    from trainables.scratch import build_scratch_model, train_tokenizer

    secrets = [
        {"prompt": f"What is the code of {name}?", "response": f"The code is {number}."}
        for name, number in zip("ABCDEFGH", range(811, 819), strict=True)
    ]
    common = [
        {"prompt": f"What is the capital of {land}?", "response": f"It is {city}."}
        for land, city in [("Peru", "Lima"), ("Kenya", "Nairobi"), ("Norway", "Oslo"), ("Japan", "Tokyo")] * 1
    ]
    for name, rows in (("forget", secrets), ("retain", common)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer([part for row in secrets + common for part in row.values()], 300)
    tokenizer.chat_template = None
    model = build_scratch_model(ScratchSettings(hidden_size=32, intermediate_size=64, layers=2, heads=2), len(tokenizer), 0)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template is None
    return tmp_path


def test_own_files_on_an_own_model_reach_a_front_and_leave_no_text_behind(request_files):
    sweep = {
        "name": "takedown",
        "redact": True,
        "model": {"target": str(request_files / "model")},
        "data": {"benchmark": "local_files", "forget": str(request_files / "forget.jsonl"), "retain": str(request_files / "retain.jsonl")},
        "trial": {
            "steps": 2,
            "optimizer": {"global_batch": 4, "micro_batch": 2, "learning_rate": 1e-3},
            "sequence_belief": {"max_new_tokens": 8},
            "deepspeed": {"zero_optimization": {"reduce_bucket_size": 1000000}},
        },
        "space": {"forget.method": {"choice": ["npo", "simnpo"]}, "beliefs": {"choice": ["none", "token+sequence"]}},
        "search": {"trials": 3, "sampler": "random"},
    }
    (request_files / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    storage = request_files / "storage"
    done = lethe("run", str(request_files / "sweep.yaml"), storage=storage)
    rows = [json.loads(line) for name in ("forget", "retain") for line in (request_files / f"{name}.jsonl").read_text().splitlines()]
    texts = [text.encode() for row in rows for text in row.values()]
    leaking = [str(path) for path in storage.rglob("*") if path.is_file() and any(text in path.read_bytes() for text in texts)]
    assert leaking == []
    assert not any(text in (done.stdout + done.stderr).encode() for text in texts)
    (measured,) = (storage / "models").glob("measured-original-*.json")
    items = [item for part in json.loads(measured.read_text())["items"].values() for members in part.values() for item in members]
    assert items and all(item["generated"].startswith("sha256:") for item in items)
    front = json.loads(lethe("front", "takedown", "--json", storage=storage).stdout)
    assert [objective["name"] for objective in front["objectives"]] == ["forget_extraction_strength", "retain_probability"]
    assert front["failed"] == 0
    assert front["front"]
    assert front["baselines"]["original"] is not None
    assert front["baselines"]["retrained"] is None
