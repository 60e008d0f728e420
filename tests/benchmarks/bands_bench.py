"""Figure 2 of the paper on the closed world: where the probability goes, by method and belief, over seeds.

    python tests/benchmarks/bands_bench.py --out /tmp/bands --seeds 5

One sweep of GradDiff, NPO and WGA, each plain, with BS-T and with BS-S, at one learning rate, eight rungs,
and `evaluation.bands: 10`. Tells, with 95 % t-intervals over seeds, how far the log-probability of the
target, its rephrasings and the high band moved at the rung at which each stood highest, and the rephrased
mass there; draws the medians. An interrupted run goes on where it was.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from scipy.stats import t as student

from orchestrator.search.study import Study
from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.sweep_folder import open_sweep
from orchestrator.storage.trial_records import TrialRecord

METHODS = ("graddiff", "npo", "wga")
BELIEFS = {
    "none": {},
    "token": {"token_belief.weight": 0.3, "token_belief.top_k": 8, "token_belief.temperature": 1.5},
    "sequence": {"sequence_belief.weight": 0.5, "sequence_belief.temperature": 1.0},
}
NAMES = {
    "none": "",
    "token": " with BS-T",
    "sequence": " with BS-S",
    "graddiff": "GradDiff",
    "npo": "NPO",
    "wga": "WGA",
}
LINES = {
    "target": "#000000",
    "rephrasing": "#D55E00",
    "high_band": "#E69F00",
    "mid_band": "#56B4E9",
    "low_band": "#0072B2",
}
SWEEP = "bands"


def run(out: Path, seeds: int, rate: float) -> None:
    """One sweep with every method, belief and seed."""
    points = [
        {"forget.method": method, "beliefs": beliefs, "seed": seed, **settings}
        for seed in range(seeds)
        for method in METHODS
        for beliefs, settings in BELIEFS.items()
    ]
    settings = {
        "evaluation.bands": 10,
        "trial.rungs": 8,
        "trial.optimizer.learning_rate": rate,
        "space.optimizer.learning_rate": "null",
        "space.retain.weight": "null",
        "space.seed": f"{{int: [0, {max(1, seeds - 1)}]}}",
        "search.trials": len(points),
        "search.enqueue": json.dumps(points),
        "resources.workers_per_trial": 1,
        "baselines.instruction": "null",
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "orchestrator.cli",
        "run",
        "quickstart",
        "--name",
        SWEEP,
        "--storage",
        str(out),
        *sets,
    ]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def changes(records: Sequence[TrialRecord], original: dict[str, float], metric: str) -> list[list[float]]:
    """Per trial the change of a metric of the validation part from before unlearning, at every rung."""
    return [[rung[metric] - original[metric] for rung in record.rungs] for record in records]


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % t-interval."""
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):+.2f} ± {half:.2f}"


def main() -> None:
    """Run the sweep, print the table, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    run(given.out, given.seeds, given.rate)
    folder, sweep = open_sweep(given.out, SWEEP)
    original = read_baselines(folder)["original"].metrics()
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in Study.read(folder.journal, sweep).records():
        groups.setdefault((record.params["forget.method"], record.params["beliefs"]), []).append(record)
    print(
        "| loss | target at the end, nats | high band, largest rise | rephrasings, largest rise | rephrased"
        " mass, largest rise |"
    )
    print("|---|---|---|---|---|")
    for (method, beliefs), records in groups.items():
        ends = [change[-1] for change in changes(records, original, "bands/target_nats")]
        peaks = [
            [max(change) for change in changes(records, original, metric)]
            for metric in (
                "bands/high_band_nats",
                "bands/rephrasing_nats",
                "validation/forget_rephrased_mass",
            )
        ]
        cells = [interval(values) for values in (ends, *peaks)]
        print(f"| {NAMES[method]}{NAMES[beliefs]} ({len(records)}) | {' | '.join(cells)} |")
    draw(given.picture or given.out / "bands.png", groups, original)


def draw(file: Path, groups: dict[tuple[str, str], list[TrialRecord]], original: dict[str, float]) -> None:
    """A panel for each loss: medians over seeds as lines, least to most as bands of colour."""
    figure, axes = plt.subplots(
        len(METHODS), len(BELIEFS), figsize=(11, 8.5), sharex=True, sharey="row", layout="constrained"
    )
    for row, method in zip(axes, METHODS, strict=True):
        for panel, beliefs in zip(row, BELIEFS, strict=True):
            for line, colour in LINES.items():
                paths = [
                    [0.0, *change]
                    for change in changes(groups[method, beliefs], original, f"bands/{line}_nats")
                ]
                columns = list(zip(*paths, strict=True))
                steps = range(len(columns))
                panel.plot(
                    steps,
                    [statistics.median(column) for column in columns],
                    color=colour,
                    label=line.replace("_", " "),
                )
                panel.fill_between(
                    steps,
                    [min(column) for column in columns],
                    [max(column) for column in columns],
                    color=colour,
                    alpha=0.15,
                )
            panel.axhline(0, color="#999999", linewidth=0.8, linestyle=":")
            panel.set_title(f"{NAMES[method]}{NAMES[beliefs]}", fontsize=10)
            panel.set_ylim(-6, 1)  # further down nothing is told any more
        row[0].set_ylabel("change, nats per answer")
    for panel in axes[-1]:
        panel.set_xlabel("rung (3 steps each)")
    axes[0][0].legend(fontsize=8, loc="lower left")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
