"""What one trial costs on GPUs: the heads alone, training steps, memory against `lethe plan`, sampling and
evaluation. No Ray, no download.

    torchrun --standalone --nproc-per-node 1 tests/benchmarks/gpu.py heads --out results
    torchrun --standalone --nproc-per-node 1 tests/benchmarks/gpu.py 1b --out results      # trained whole
    torchrun --standalone --nproc-per-node 1 tests/benchmarks/gpu.py 8b --out results      # with LoRA

Weights are random and text is made up: neither decides speed. Each measurement prints as soon as it is there,
and RESULTS/WHAT.json holds all so far: one that fails says so and does not take the others along. `tiny`
tries everything on a CPU.
"""

import argparse
import gc
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import trainables.generation.inference
from cluster.capacity.rank_memory import GPU_FRAMEWORK, Lengths, memory_of_rank
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import TrialSettings
from tests.benchmarks import gpu_heads, gpu_shapes
from tests.benchmarks.gpu_timing import MIB, Results, in_turn, machine, memory, synchronize, used_mib
from trainables.data.examples import EvaluationPart
from trainables.engine.deepspeed_setup import start_deepspeed
from trainables.engine.policy import LossHead
from trainables.engine.zero3_engine import Engine
from trainables.generation.inference import inference
from trainables.generation.sequence_beliefs import sample_responses
from trainables.losses.head_plan import HeadPlan, HeadTerm
from trainables.metrics.evaluate import evaluate
from trainables.run_job import leave
from trainables.training.batch_packing import PackedBatches
from trainables.training.trial import train_step
from trainables.worker.job_runner import JobRunner

HEADS = {"fused": gpu_heads.fused, "dense": gpu_heads.dense, "Liger": gpu_heads.liger}
LOSSES = {"cross-entropy": "none", "BS-T": "token"}
CHUNKS = (256, 1024, 4096)
BATCH = 32
"""Forget sequences of a global batch; as many retain sequences go with them."""


def main() -> None:
    """Measure one thing and write what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("heads", *gpu_shapes.SHAPES))
    parser.add_argument("--out", type=Path, default=Path("gpu_results"))
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("/dev/shm/lethe-gpu-bench"),
        help="where model folders are written",
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[1024, 4096], help="answer tokens for `heads`")
    parser.add_argument("--vocabulary", type=int, default=128_256, help="for `heads`")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured, in turn")
    given = parser.parse_args()
    start_deepspeed()
    results = Results(given.out / f"{given.what}.json")
    results.add("machine", machine())
    if given.what == "heads":
        for loss, rows in itertools.product(LOSSES, given.rows):
            results.measure(f"{loss}, {rows} rows", partial(heads, loss, rows, given))
    else:
        whole_model(given, results)
    leave()


def heads(loss: str, rows: int, given: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward of the output head alone, half of the rows to forget and half to retain; peak
    memory includes gradients."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.manual_seed(0)
    hidden = 2048 if cuda else 64
    weight = torch.nn.Parameter(
        torch.randn(given.vocabulary, hidden, dtype=torch.bfloat16, device=device) * 0.02
    )
    hidden_NH = torch.randn(rows, hidden, dtype=torch.bfloat16, device=device).requires_grad_()
    head = LossHead(weight)
    targets = torch.randint(given.vocabulary, (rows,), device=device)

    def work(name: str, chunk: int) -> Callable[[], Any]:
        plan = head_plan(targets, loss, chunk)

        def run() -> None:
            weight.grad = hidden_NH.grad = None
            HEADS[name](head, hidden_NH, plan).loss.backward()

        return run

    works = {f"fused, chunk {chunk}": work("fused", chunk) for chunk in CHUNKS if chunk <= rows}
    works["dense"] = work("dense", rows)
    if cuda and loss == "cross-entropy":
        works["Liger"] = work("Liger", rows)
    gradients = {}
    for name, run in works.items():
        run()
        gradients[name] = hidden_NH.grad.float()
    apart = {
        name: float((one - gradients["dense"]).norm() / gradients["dense"].norm())
        for name, one in gradients.items()
    }
    del gradients
    found: dict[str, Any] = in_turn(works, given.rounds)
    if (
        cuda and loss == "cross-entropy"
    ):  # inductor of torch 2.11 cannot compile the cumulated sum of the belief's ties
        with gpu_heads.compiled():
            found |= in_turn(
                {f"compiled, chunk {chunk}": work("fused", chunk) for chunk in CHUNKS if chunk <= rows},
                given.rounds,
            )
    return found | {"gradients apart from dense": apart}


def head_plan(targets: torch.Tensor, loss: str, chunk: int) -> HeadPlan:
    """GradDiff: the first half of the rows is forgotten, the other retained, in responses of 64 tokens."""
    trial = TrialSettings(forget={"method": "graddiff"}, beliefs=LOSSES[loss])
    half = len(targets) // 2
    terms = []
    for kind, part in (("forget", slice(0, half)), ("nll", slice(half, len(targets)))):
        count = part.stop - part.start
        sequence = torch.arange(count) // 64
        terms.append(HeadTerm(part, kind, 1 / count, sequence, torch.bincount(sequence)))
    plan = HeadPlan(
        targets, tuple(terms), trial.forget, trial.token_belief if trial.token_beliefs else None, chunk
    )
    return plan.to(targets.device)


def whole_model(given: argparse.Namespace, results: Results) -> None:
    """Everything with one model: sampling and evaluation first, so that the full copy they need is there when
    steps are measured."""
    shape = gpu_shapes.SHAPES[given.what]
    folder = given.models / given.what
    if dist.get_rank() == 0 and not (folder / "config.json").is_file():
        gpu_shapes.write_model(shape, folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    gc.collect()
    dist.barrier()  # all ranks read what rank 0 writes
    lora = {"rank": 16} if given.what == "8b" else {}
    trial = settings("BS-T", lora)
    model = ModelSettings(target=str(folder), dtype="bfloat16")
    begun = time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    runner = JobRunner()
    engine = runner.engine(str(folder), model, trial)
    results.add("engine built", {"seconds": round(time.perf_counter() - begun, 1), "memory_mib": used_mib()})
    results.measure(
        "reset of a warm engine", lambda: in_turn({"reset": lambda: engine.reset(trial)}, given.rounds)
    )
    results.measure("full copy", lambda: in_turn({"filled": engine.plain_model}, given.rounds))
    results.measure("memory", lambda: plan_and_measured(engine, shape, model, lora))
    for loss in LOSSES:
        results.measure(f"steps, {loss}", partial(steps, engine, shape, lora, loss, given.rounds))
    results.measure("sampling", lambda: sampling(engine, trial))
    results.measure("evaluation of 400 items", lambda: evaluation(engine, trial))


def settings(loss: str, lora: dict[str, int], **engine: Any) -> TrialSettings:
    """GradDiff, plain or with BS-T, 16 pairs a forward pass."""
    return TrialSettings(
        forget={"method": "graddiff"},
        beliefs=LOSSES[loss],
        lora=lora,
        optimizer={"global_batch": BATCH, "micro_batch": 16},
        engine={"evaluation_batch": 128, **engine},
    )


@contextmanager
def without_graphs() -> Iterator[None]:
    """Decode step by step, as on a CPU."""
    allowed = trainables.generation.inference.can_be_captured
    trainables.generation.inference.can_be_captured = lambda config, device: False  # type: ignore[assignment]
    try:
        yield
    finally:
        trainables.generation.inference.can_be_captured = allowed


def sampling(engine: Engine, trial: TrialSettings) -> dict[str, Any]:
    """New tokens per second and rank: ours, seeded by prompt and sample, beside transformers' `generate` with
    the same batch."""
    cuda = torch.cuda.is_available()
    count, new = (128, 64) if cuda else (8, 4)
    prompts = gpu_shapes.encoded(count, gpu_shapes.SHAPES["1b" if cuda else "tiny"], "sampled")
    wanted = trial.sequence_belief.model_copy(update={"num_samples": 1, "max_new_tokens": new})
    tokens: dict[str, Any] = {}
    with inference(engine, trial.engine) as model:
        ids = torch.tensor([item.ids[: item.prompt_length] for item in prompts], device=engine.device)
        plain = engine.plain_model()

        def ours(name: str, graphs: bool) -> None:
            with nullcontext() if graphs else without_graphs():
                responses = sample_responses(model, prompts, wanted, "bench", at_most=count)
            tokens[name] = [token for group in responses for token in group[0]]

        def theirs() -> None:
            output = plain.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
            )
            tokens["generate"] = output[:, ids.shape[1] :].flatten().tolist()

        works = {
            "ours": partial(ours, "ours", True),
            "ours without graphs": partial(ours, "ours without graphs", False),
            "generate": theirs,
        }
        times: dict[str, Any] = in_turn(works, 2)
        greedy = [model.generate([item.ids[: item.prompt_length] for item in prompts], new)]
        with without_graphs():
            greedy.append(model.generate([item.ids[: item.prompt_length] for item in prompts], new))
    for name, entry in times.items():
        entry["tokens_per_s"] = round(1e3 * len(tokens[name]) / entry["median_ms"])
    same = sum(one == other for one, other in zip(*greedy, strict=True))
    return times | {"greedy answers equal with and without graphs": f"{same} of {count}"}


def evaluation(engine: Engine, trial: TrialSettings) -> dict[str, Any]:
    """400 items as in TOFU's forget set: truth ratio of a paraphrase and five wrong answers, extraction,
    ROUGE of 200 greedy tokens."""
    cuda = torch.cuda.is_available()
    part = EvaluationPart(sets={"forget": gpu_shapes.examples(400 if cuda else 4)})
    found: dict[str, Any] = {}
    for batch, new in ((32, 1), (128, 1), (128, 200)):
        begun = time.perf_counter()
        with inference(engine, trial.engine.model_copy(update={"evaluation_batch": batch})) as model:
            evaluate(model, part, max_new_tokens=new if cuda else 2)
        synchronize()
        found[f"batch {batch}, {new} greedy tokens an item"] = {
            "seconds": round(time.perf_counter() - begun, 2)
        }
    return found


def steps(
    engine: Engine, shape: gpu_shapes.ModelShape, lora: dict[str, int], loss: str, rounds: int
) -> dict[str, Any]:
    """One optimizer step on 32 forget and 32 retain sequences of 48 + 80 tokens, in two micro-batches a
    rank."""
    forget, retain = (gpu_shapes.encoded(BATCH, shape, name) for name in ("forget", "retain"))
    module = engine._deepspeed.module.head  # a rival takes the place of our own
    engine.reset(settings(loss, lora))

    def work(name: str, chunk: int) -> None:
        with nullcontext() if name == "fused" else gpu_heads.in_place_of_ours(module, HEADS[name]):
            train_step(
                engine,
                PackedBatches(settings(loss, lora, head_chunk_tokens=chunk), forget, retain, {}),
                0,
                1e-6,
            )

    works = {f"fused, chunk {chunk}": partial(work, "fused", chunk) for chunk in CHUNKS}
    works["dense"] = partial(work, "dense", 256)
    if loss == "cross-entropy" and torch.cuda.is_available():
        works["Liger"] = partial(work, "Liger", 256)
    return in_turn(works, rounds)


def plan_and_measured(
    engine: Engine, shape: gpu_shapes.ModelShape, model: ModelSettings, lora: dict[str, int]
) -> dict[str, Any]:
    """Peak memory of BS-T steps with and without recomputed activations, beside what `lethe plan` predicts
    for the same trial."""
    forget, retain = (gpu_shapes.encoded(BATCH, shape, name) for name in ("forget", "retain"))
    lengths = Lengths(sequence=gpu_shapes.PROMPT + gpu_shapes.ANSWER, prompt=gpu_shapes.PROMPT)
    found = {}
    for recomputed in (False, True):
        trial = settings("BS-T", lora, activation_checkpointing=recomputed)
        engine.reset(trial)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        memory(reset=True)
        begun = time.perf_counter()
        for step in range(2):
            train_step(engine, PackedBatches(trial, forget, retain, {}), step, 1e-6)
        synchronize()
        predicted = memory_of_rank(shape, model, trial, lengths, dist.get_world_size(), gpu=True)
        training = ("forward and backward", "gradient reduction", "optimizer step")
        worst = max(training, key=lambda name: sum(predicted.phases[name].values()))
        found["recomputed" if recomputed else "kept"] = {
            "seconds_of_two_steps": round(time.perf_counter() - begun, 2),
            "peak_of_tensors_mib": round(memory() / MIB),
            "predicted_without_framework_mib": round(
                (sum(predicted.phases[worst].values()) - GPU_FRAMEWORK) / MIB
            ),
            "predicted_phase": worst,
            "predicted_parts_mib": {
                name: round(size / MIB) for name, size in predicted.phases[worst].items()
            },
            "device": used_mib(),
        }
    return found


if __name__ == "__main__":
    main()
