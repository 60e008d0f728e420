"""What a CPU can show of speed and memory: the fused head, belief sampling, evaluation, enumeration.

    python tests/benchmarks/cpu_bench.py --out /tmp/cpu

Everything is a ratio of two runs in one process, or of two launches in turn. Writes result.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from search_spaces.settings.forget_settings import ForgetSettings
from search_spaces.settings.trial_settings import TokenBeliefSettings
from tests.benchmarks.gpu_heads import dense, fused
from trainables.engine.policy import LossHead
from trainables.losses.head_plan import HeadPlan, HeadTerm

VOCABULARY, ROWS, HIDDEN = 128_256, 1024, 512
HEADS = {
    "dense BS-T": (dense, True),
    "fused BS-T": (fused, True),
    "dense cross-entropy": (dense, False),
    "fused cross-entropy": (fused, False),
}


def head_step(name: str) -> Any:
    """A forward and backward pass of 1024 answer rows through one head, as a function to call."""
    head, with_belief = HEADS[name]
    torch.manual_seed(0)
    module = LossHead(torch.nn.Parameter(torch.randn(VOCABULARY, HIDDEN) * 0.05))
    hidden = torch.randn(ROWS, HIDDEN, requires_grad=True)
    targets = torch.randint(VOCABULARY, (ROWS,))
    term = HeadTerm(
        rows=slice(0, ROWS),
        kind="forget" if with_belief else "nll",
        coefficient=1 / ROWS,
        sequence_N=torch.arange(ROWS) // 32,
        lengths_S=torch.full((ROWS // 32,), 32),
    )
    belief = TokenBeliefSettings(weight=0.2, top_k=20, guard_target=False) if with_belief else None
    plan = HeadPlan(
        targets_N=targets, terms=(term,), forget=ForgetSettings(method="graddiff"), token_belief=belief
    )

    def step() -> float:
        module.zero_grad(set_to_none=True)
        hidden.grad = None
        loss = head(module, hidden, plan).loss
        loss.backward()
        return float(loss.detach())

    return step


def status_bytes(name: str) -> int:
    """`VmRSS` or `VmHWM` of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def peak_of(name: str) -> int:
    """Bytes at the peak of one step beyond what is there before it and the weight's gradient, in a process of
    its own."""
    told = subprocess.run(
        [sys.executable, __file__, "--peak", name], capture_output=True, text=True, check=True
    )
    return int(told.stdout)


def peak_here(name: str) -> int:
    """See `peak_of`."""
    step = head_step(name)
    before = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    return status_bytes("VmHWM") - before - 4 * VOCABULARY * HIDDEN


def heads(rounds: int) -> dict[str, Any]:
    """Times in turn in this process, peaks in others; and whether they compute the same."""
    steps = {name: head_step(name) for name in HEADS}
    losses = {name: step() for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    del steps
    return {
        "times": times,
        "losses": losses,
        "peaks": {name: [peak_of(name) for _ in range(3)] for name in HEADS},
    }


def ranks(workers: int, out: Path, round_: int) -> dict[str, Any]:
    """One launch of cpu_ranks.py."""
    result = out / f"ranks{workers}-{round_}.json"
    script = Path(__file__).with_name("cpu_ranks.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(workers),
        str(script),
    ]
    subprocess.run(
        [*command, str(out), str(result)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return json.loads(result.read_text())


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and least to most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(above: list[float], below: list[float]) -> str:
    """Ratios of pairs measured one after the other."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def tell(found: dict[str, Any]) -> None:
    """Print the tables."""
    times, peaks = found["heads"]["times"], found["heads"]["peaks"]
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")
    print(
        f"\n| head: {ROWS} rows, V = {VOCABULARY}, H = {HIDDEN}, float32 | s | peak beyond inputs and weight"
        " gradient, MiB |\n|---|---|---|"
    )
    for name, values in times.items():
        print(f"| {name} | {spread(values)} | {spread([peak / 2**20 for peak in peaks[name]], 0)} |")
    print(
        f"\nfused BS-T / dense BS-T: time {ratios(times['fused BS-T'], times['dense BS-T'])}, peak", end=" "
    )
    print(f"{statistics.median(peaks['fused BS-T']) / statistics.median(peaks['dense BS-T']):.3f}")
    print(
        f"fused BS-T / fused cross-entropy: time {ratios(times['fused BS-T'], times['fused cross-entropy'])}"
    )
    one, two = (
        [value for launch in found[f"ranks{workers}"] for value in launch["evaluation"]] for workers in (1, 2)
    )
    print(
        f"\nevaluation of both parts, s: 1 rank {spread(one)}, 2 ranks {spread(two)}, speed-up"
        f" {ratios(one, two)}"
    )
    rates = {
        name: [v for launch in found["ranks2"] for v in launch["sampling"][name]]
        for name in ("gathered", "lockstep", "unsharded")
    }
    print("\n| sampling, 2 processes | tokens/s | of unsharded |\n|---|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {spread(values, 0)} | {ratios(values, rates['unsharded'])} |")
    alone, shared = (
        [v for launch in found["ranks1"] for v in launch["enumeration"][name]] for name in ("alone", "shared")
    )
    worst = max(launch["enumeration"]["worst_difference_nats"] for launch in found["ranks1"])
    count = found["ranks1"][0]["enumeration"]["responses"]
    print(
        f"\nenumeration of {count} responses, s: each alone {spread(alone)}, prompt's cache shared"
        f" {spread(shared)},",
        end=" ",
    )
    print(f"speed-up {ratios(alone, shared)}; largest difference {worst:.1e} nats")


def main() -> None:
    """Run everything in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print(peak_here(given.peak))
        return
    subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "prepare", "quickstart", "--storage", str(given.out)],
        check=True,
    )
    found: dict[str, Any] = {"ranks1": [], "ranks2": []}
    for round_ in range(2):
        for workers in (1, 2):
            found[f"ranks{workers}"].append(ranks(workers, given.out, round_))
    found["heads"] = heads(given.rounds)
    (given.out / "result.json").write_text(json.dumps(found, indent=1))
    tell(found)


if __name__ == "__main__":
    main()
