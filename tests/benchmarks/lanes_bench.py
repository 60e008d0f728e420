"""Warm lanes against a worker group for every trial, and where the time of a warm trial goes.

    python tests/benchmarks/lanes_bench.py --out /tmp/lanes --trials 6 --rounds 2

The quickstart's own enqueued trials, two ZeRO-3 workers each, models prepared beforehand. In turn, A B A B:
(A) `lethe run` of a sweep of those trials, Tune, Optuna, MLflow and report included; (B)
`tests/benchmarks/cold_pattern.py`. Time outside of steps, beliefs and evaluation is what is compared. Writes
result.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray

from orchestrator.lanes.ray_session import ray_session
from orchestrator.search.study import Study
from orchestrator.storage.baselines import plan_baselines
from orchestrator.storage.sweep_folder import open_sweep
from search_spaces.loading.loader import load_sweep
from search_spaces.settings.space import apply
from tests.benchmarks.cold_pattern import run_cold
from trainables.jobs import TrialJob

INNER = ("beliefs", "steps", "evaluation")
"""Phases that a trial is there for."""


def lethe(*arguments: str) -> float:
    """Run a command. Returns: its wall time in seconds."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments], stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began


def warm(out: Path, name: str, trials: int) -> dict[str, Any]:
    """A sweep of the first so many enqueued trials."""
    wall_s = lethe(
        "run", "quickstart", "--name", name, "--storage", str(out), "--set", f"search.trials={trials}"
    )
    folder, sweep = open_sweep(out, name)
    study = Study.read(folder.journal, sweep)
    records = sorted(study.records(), key=lambda record: record.started_at or 0)
    seconds = [study.annotations(record.number)["seconds"] for record in records]
    durations = [record.duration_s or 0.0 for record in records]
    gaps = [(after.started_at or 0) - (before.finished_at or 0) for before, after in pairwise(records)]
    metrics = [dict(record.metrics) for record in records]
    return {"wall_s": wall_s, "seconds": seconds, "durations": durations, "gaps": gaps, "metrics": metrics}


def cold(out: Path, name: str, trials: int) -> dict[str, Any]:
    """The same trials, each with workers of its own."""
    sweep = load_sweep(Path("quickstart"))
    plan = plan_baselines(sweep, out / "models")
    jobs = [
        TrialJob(
            model=sweep.model,
            data=sweep.data,
            evaluation=sweep.evaluation,
            trial=apply(sweep.trial, point),
            folder=plan.original.folder,
            original=str(plan.original.measurement),
            retrained=str(plan.retrained.measurement) if plan.retrained else None,
            weights=str(out / name / f"weights{place}"),
        ).model_dump(mode="json")
        for place, point in enumerate(sweep.search.enqueue[:trials])
    ]
    with ray_session():
        found = run_cold(jobs, sweep.resources.workers_per_trial, out / name / "ray")
    return {
        "wall_s": found["wall_s"],
        "seconds": [t["seconds"] for t in found["trials"]],
        "metrics": [t["metrics"] for t in found["trials"]],
    }


def outside(run: dict[str, Any]) -> float:
    """Seconds per trial outside of what trials are there for, the start of everything included."""
    inner = sum(seconds[phase] for seconds in run["seconds"] for phase in INNER)
    return (run["wall_s"] - inner) / len(run["seconds"])


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and least to most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Run in turn, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    lethe("prepare", "quickstart", "--storage", str(given.out))
    rounds: dict[str, list[dict[str, Any]]] = {"warm": [], "cold": []}
    for number in range(given.rounds):
        for kind, run in (("warm", warm), ("cold", cold)):
            rounds[kind].append(run(given.out, f"{kind}{number}", given.trials))
            last = rounds[kind][-1]
            print(
                f"{kind} {number}: {last['wall_s']:.1f} s for {given.trials} trials, {outside(last):.2f} s"
                " outside of each",
                flush=True,
            )
        same(rounds["warm"][-1], rounds["cold"][-1])
    tell(rounds, given.trials)
    (given.out / "result.json").write_text(json.dumps(rounds, indent=1))


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """A warm trial equals a cold one: then the two are comparable."""
    for warm_metrics, cold_metrics in zip(one["metrics"], other["metrics"], strict=True):
        common = [name for name in cold_metrics if name.startswith("validation/")]
        assert common and all(warm_metrics[name] == cold_metrics[name] for name in common), (
            "the two do not run the same trials"
        )


def tell(rounds: dict[str, list[dict[str, Any]]], trials: int) -> None:
    """Print the comparison, and the breakdown of warm trials."""
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, Ray"
        f" {ray.__version__}"
    )
    print(f"\n{trials} quickstart trials on {machine}")
    print("| | seconds per trial outside of steps, beliefs and evaluation | trials per hour |\n|---|---|---|")
    for kind, runs in rounds.items():
        rates = [3600 * trials / run["wall_s"] for run in runs]
        print(f"| {kind} | {spread([outside(run) for run in runs])} | {spread(rates, 0)} |")
    ratios = [outside(b) / outside(a) for a, b in zip(rounds["warm"], rounds["cold"], strict=True)]
    # What the start of a sweep costs is shared by all of its trials; the first trial of a lane warms up.
    # After it there is this.
    later = [
        (d, s, g)
        for run in rounds["warm"]
        for d, s, g in zip(run["durations"][1:], run["seconds"][1:], run["gaps"], strict=True)
    ]
    overhead = [duration + gap - sum(seconds[phase] for phase in INNER) for duration, seconds, gap in later]
    steady = statistics.median(map(outside, rounds["cold"])) / statistics.median(overhead)
    print(
        f"\ncold / warm, the start of the sweep shared by {trials} trials: {spread(ratios, 1)}; between"
        f" trials: {steady:.0f}"
    )
    print("\n| a warm trial after the first | ms, median (least to most) |\n|---|---|")
    rows = {phase: [seconds[phase] for _, seconds, _ in later] for phase in later[0][1]}
    rows["between the lane and the study"] = [
        duration - sum(seconds.values()) for duration, seconds, _ in later
    ]
    rows["until the next trial is handed out"] = [gap for *_, gap in later]
    rows["the whole trial"] = [duration + gap for duration, _, gap in later]
    rows["of it outside of beliefs, steps and evaluation"] = overhead
    for name, values in rows.items():
        print(f"| {name} | {spread([1e3 * value for value in values], 0)} |")


if __name__ == "__main__":
    main()
