"""Does what the simulator says hold for real? TPE with early stopping against random search, on real
quickstart trials.

    python tests/benchmarks/real_search_bench.py --out /tmp/real_search --seeds 3 --worker-hours 0.06

Both get the same worker-time; sweeps run one after another, the two contenders in turn, so that the machine's
mood hits both alike.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

COMMON = ["search.enqueue=[]", "search.trials=500", "trial.rungs=8"]
CONTENDERS = {
    "random": ["search.sampler=random"],
    "tpe-early-stopping": ["search.sampler=tpe", "early_stopping={}"],
}


def lethe(*arguments: str) -> str:
    """One command, to its end; its progress goes on to the screen's error stream."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def run(name: str, overrides: list[str], storage: Path) -> None:
    """One sweep; one that was interrupted goes on."""
    sets = [part for override in overrides for part in ("--set", override)]
    lethe("run", "quickstart", "--name", name, "--storage", str(storage), *sets)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps and of result.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worker-hours", type=float, default=0.06)
    arguments = parser.parse_args()
    budget = f"budget.worker_hours={arguments.worker_hours}"
    results: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    trials: dict[str, list[int]] = {contender: [] for contender in CONTENDERS}
    for seed in range(arguments.seeds):
        for contender, overrides in CONTENDERS.items():
            run(f"{contender}-{seed}", [*COMMON, *overrides, f"search.seed={seed}", budget], arguments.out)
        names = [f"{contender}-{seed}" for contender in CONTENDERS]
        compared = json.loads(lethe("compare", *names, "--json", "--storage", str(arguments.out)))
        for contender, side in zip(CONTENDERS, compared["sweeps"], strict=True):
            results[contender].append(side["hypervolume_at_equal_time"])
            trials[contender].append(side["trials"])
        print(
            f"seed {seed}: "
            + ", ".join(
                f"{name} {values[-1]:.4f} ({trials[name][-1]} trials)" for name, values in results.items()
            )
        )
    (arguments.out / "result.json").write_text(
        json.dumps({"hypervolume_at_equal_time": results, "trials": trials}, indent=1)
    )
    for name, values in results.items():
        spread = f"{min(values):.4f} to {max(values):.4f}"
        print(
            f"{name}: hypervolume {statistics.mean(values):.4f} on average ({spread}),"
            f" {statistics.mean(trials[name]):.0f} trials"
        )


main()
