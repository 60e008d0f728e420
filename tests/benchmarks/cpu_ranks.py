"""One rank of cpu_bench.py, under torchrun: sampling by ZeRO-3 workers against unsharded models, evaluation,
enumeration.

    torchrun --nproc-per-node 2 tests/benchmarks/cpu_ranks.py FOLDER OUT.json

FOLDER holds the prepared models of the quickstart (`lethe prepare quickstart --storage FOLDER`).
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.storage.baselines import plan_baselines
from search_spaces.loading.loader import load_sweep
from search_spaces.settings.trial_settings import EngineSettings, SequenceBeliefSettings, TrialSettings
from trainables.analysis.single_process import SingleProcessModel
from trainables.data.encoding import Encoded, encode
from trainables.engine.deepspeed_setup import start_deepspeed
from trainables.engine.policy import load_causal_lm
from trainables.generation.inference import inference
from trainables.generation.sequence_beliefs import sample_beliefs, sample_responses
from trainables.metrics.closed_world_mass import score_questions
from trainables.metrics.scoring import score_responses
from trainables.run_job import leave
from trainables.worker.job_runner import JobRunner
from trainables.worker.model_measurement import measure

ROUNDS = 5
SAMPLES = SequenceBeliefSettings(num_samples=32, temperature=1.0, max_new_tokens=24)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the slowest rank is done, and the result."""
    dist.barrier()
    began = time.perf_counter()
    result = work()
    dist.barrier()
    return time.perf_counter() - began, result


def in_turn(rivals: dict[str, Callable[[], Any]]) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Times of each, A B A B, after a round that is thrown away; and last results."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    results: dict[str, Any] = {}
    for number in range(ROUNDS + 1):
        for name, work in rivals.items():
            seconds, results[name] = timed(work)
            if number:
                times[name].append(seconds)
    return times, results


def main() -> None:
    """Measure everything that this number of ranks is for."""
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    start_deepspeed()
    sweep = load_sweep(Path("quickstart"))
    original = plan_baselines(sweep, folder / "models").original.folder
    runner = JobRunner()
    engine = runner.engine(original, sweep.model)
    data = runner.data(sweep.data, engine)
    trial = TrialSettings(engine=sweep.trial.engine)
    engine.reset(trial)
    found: dict[str, Any] = {}
    times, _ = in_turn(
        {"evaluation": lambda: measure(engine, data, trial, ("validation", "test"), sweep.evaluation).metrics}
    )
    found["evaluation"] = times["evaluation"]
    if engine.world_size == 2:
        found["sampling"] = sampling(engine, data, load_causal_lm(original, sweep.model).eval(), trial.engine)
    else:
        found["enumeration"] = enumeration(
            load_causal_lm(original, sweep.model).eval(), engine.tokenizer, data, trial.engine
        )
    if engine.rank == 0:
        output.write_text(json.dumps(found))
    leave()


def sampling(engine: Any, data: Any, whole: Any, settings: EngineSettings) -> dict[str, Any]:
    """Tokens per second of the whole world: ZeRO-3 gathered, in lock-step, and as many processes with a whole
    model each."""
    forget = data.forget
    mine = forget[engine.rank :: engine.world_size]
    at_most = math.ceil(len(forget) / engine.world_size)
    locked = settings.model_copy(update={"inference": "lockstep"})

    def zero3(chosen: EngineSettings) -> int:
        beliefs = sample_beliefs(engine, forget, SAMPLES, chosen, seed=0, refresh=0, with_reference=False)
        return sum(len(belief.encoded.answer) for group in beliefs.values() for belief in group)

    def unsharded() -> int:
        with inference(SingleProcessModel(whole, engine.tokenizer), settings) as model:
            responses = sample_responses(model, mine, SAMPLES, "0/0", at_most=at_most)
        return sum(len(ids) for group in responses for ids in group)

    times, tokens = in_turn(
        {"gathered": lambda: zero3(settings), "lockstep": lambda: zero3(locked), "unsharded": unsharded}
    )
    counts = {**tokens, "unsharded": int(engine.sum([tokens["unsharded"]])[0])}
    assert len(set(counts.values())) == 1, f"the same draws: {counts}"
    return {name: [counts[name] / seconds for seconds in values] for name, values in times.items()}


def enumeration(whole: Any, tokenizer: Any, data: Any, settings: EngineSettings) -> dict[str, Any]:
    """Every response of the validation questions: with the prompt's cache shared, and each response by
    itself."""
    questions = data.benchmark.parts["validation"].questions
    with inference(SingleProcessModel(whole, tokenizer), settings) as model:
        alone = []
        for question in questions:
            for response in (text for row in question.responses for text in row):
                ids, length = encode(tokenizer, question.prompt, response)
                alone.append(Encoded(question.id, ids, length))
        times, results = in_turn(
            {
                "shared": lambda: score_questions(model, questions),
                "alone": lambda: score_responses(model, alone),
            }
        )
        shared = {item["id"]: item["logp_nats"] for item in results["shared"]}
        by_hand: dict[str, list[float]] = {}
        for place, item in enumerate(alone):
            by_hand.setdefault(item.id, []).append(-results["alone"][place].nll_nats * len(item.answer))
        worst = max(
            abs(a - b) for name, values in by_hand.items() for a, b in zip(shared[name], values, strict=True)
        )
    return {**times, "worst_difference_nats": worst, "responses": len(alone)}


main()
