"""How much worker-time does each way to search need? On simulated trials, so that many sweeps fit into
minutes.

    python tests/benchmarks/search_bench.py --out /tmp/search_bench

All sweeps are the quickstart on the same lanes, with every rung a candidate unless told otherwise. What
counts is the virtual worker-time until a sweep's reported front first has 95 % of the best known hypervolume:
the largest that any of them, or one very long sweep, reached.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

STOPPING = "early_stopping={}"
LONG_S, SHORT_S, GP_S = 450.0, 180.0, 60.0
"""Virtual seconds of a sweep: enough for slow contenders to get there, enough for fast ones, and what a GP's
time to think allows."""
CONTENDERS = {
    "random": (LONG_S, ["search.sampler=random"]),
    "TPE": (SHORT_S, ["search.sampler=tpe"]),
    "TPE + early stopping": (SHORT_S, ["search.sampler=tpe", STOPPING]),
    "NSGA-II": (LONG_S, ["search.sampler=nsga2"]),
    "GP": (GP_S, ["search.sampler=gp"]),
}
VARIANTS = {
    "random + early stopping": (LONG_S, ["search.sampler=random", STOPPING]),
    "random, last rung": (LONG_S, ["search.sampler=random", "search.select=last"]),
    "TPE, last rung": (SHORT_S, ["search.sampler=tpe", "search.select=last"]),
    "TPE + early stopping, last rung": (SHORT_S, ["search.sampler=tpe", STOPPING, "search.select=last"]),
}
VERY_LONG = "very long"
VERY_LONG_SWEEP = (3 * LONG_S, ["search.sampler=tpe", STOPPING, "search.newest_trials=500"])
BASELINE = "random"
GOAL_FRAC = 0.95
"""Of the best known hypervolume."""
FASTEST_TRIAL_S, FASTEST_STOPPED_S = 3.5, 1.0
"""Virtual seconds of a trial, and of one that is stopped as early as can be: bound how many fit in. NSGA-II's
population follows."""


@dataclass(frozen=True)
class Task:
    """One sweep to simulate."""

    contender: str
    overrides: tuple[str, ...]
    seed: int
    lanes: int
    virtual_s: float


@dataclass(frozen=True)
class History:
    """What a sweep had reached when."""

    contender: str
    seed: int
    worker_hours: tuple[float, ...]
    """Virtual worker-time at each trial's end: all lanes from the start on, busy or not."""
    hypervolumes: tuple[float, ...]
    """Of the reported front, on the test part."""
    stopped: int
    real_s: float
    """Time that the simulation took."""


def simulated(task: Task) -> History:
    """Run one sweep."""
    # In the worker process, whose libraries were told to use one thread: see `main`.
    from orchestrator.simulation.learning_curves import LearningCurves
    from orchestrator.simulation.recording import packaged_recording
    from orchestrator.simulation.virtual_sweep import ORIGIN_S, SilentObserver, VirtualSweep
    from orchestrator.storage.sweep_folder import SweepFolder
    from search_spaces.loading.loader import load_sweep

    begun = time.perf_counter()
    trials = round(
        task.lanes * task.virtual_s / (FASTEST_STOPPED_S if STOPPING in task.overrides else FASTEST_TRIAL_S)
    )
    settings = [f"budget.wall_time_s={task.virtual_s}", f"search.trials={trials}", f"search.seed={task.seed}"]
    sweep = load_sweep(Path("quickstart"), ["search.enqueue=[]", *settings, *task.overrides], name="bench")
    worker_hours = []

    class Watch(SilentObserver):
        def trial_ended(self, record):
            worker_hours.append(
                (run.clock() - ORIGIN_S) * task.lanes * sweep.resources.workers_per_trial / 3600
            )

    with tempfile.TemporaryDirectory() as root:
        folder = SweepFolder(Path(root), sweep.name)
        folder.create(sweep, "quickstart")
        run = VirtualSweep(sweep, folder, task.lanes, LearningCurves(packaged_recording()))
        run.run(Watch())
    sweep_state, real_s = run.sweep_state, time.perf_counter() - begun
    return History(
        task.contender,
        task.seed,
        tuple(worker_hours),
        tuple(sweep_state.hypervolumes),
        sweep_state.counts["stopped"],
        real_s,
    )


def hours_to(history: History, goal: float) -> float:
    """Worker-time until a hypervolume was first reached; infinite where it never was."""
    return next(
        (
            hours
            for hours, volume in zip(history.worker_hours, history.hypervolumes, strict=True)
            if volume >= goal
        ),
        math.inf,
    )


def reached_at(history: History, hours: float) -> float:
    """Largest hypervolume up to a worker-time."""
    return max(
        (
            volume
            for at, volume in zip(history.worker_hours, history.hypervolumes, strict=True)
            if at <= hours
        ),
        default=0.0,
    )


def table(histories: list[History], goal: float) -> list[dict[str, object]]:
    """One row per contender: quartiles of the worker-time to the goal, and their ratio to the baseline's
    median."""
    names = list(dict.fromkeys(history.contender for history in histories))
    rows = []
    for name in names:
        own = [history for history in histories if history.contender == name]
        hours = sorted(hours_to(history, goal) for history in own)
        low, middle, high = (quantile(hours, share) for share in (0.25, 0.5, 0.75))
        rows.append(
            {
                "contender": name,
                "seeds": len(own),
                "reached": sum(map(math.isfinite, hours)),
                "worker_hours": [low, middle, high],
                "trials": statistics.median(len(history.hypervolumes) for history in own),
                "stopped": statistics.median(history.stopped for history in own),
                "final_hypervolume": statistics.median(max(history.hypervolumes) for history in own),
                "real_s": statistics.median(history.real_s for history in own),
            }
        )
    baseline = next((row["worker_hours"][1] for row in rows if row["contender"] == BASELINE), math.nan)
    return [{**row, "ratio": row["worker_hours"][1] / baseline} for row in rows]


def quantile(values: list[float], share: float) -> float:
    """Of sorted values that may be infinite: the value below which that share of them lies, none made up in
    between."""
    return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def draw(histories: list[History], best: float, path: Path) -> None:
    """Hypervolume over worker-time: median and quartiles over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for number, name in enumerate(dict.fromkeys(history.contender for history in histories)):
        own = [history for history in histories if history.contender == name]
        until = min(history.worker_hours[-1] for history in own)
        hours = [until * step / 300 for step in range(1, 301)]
        columns = [sorted(reached_at(history, at) for history in own) for at in hours]
        low, middle, high = ([quantile(column, share) for column in columns] for share in (0.25, 0.5, 0.75))
        axes.plot(hours, middle, color=f"C{number}", label=name)
        axes.fill_between(hours, low, high, color=f"C{number}", alpha=0.15, linewidth=0)
    axes.axhline(GOAL_FRAC * best, color="black", linestyle=":", linewidth=1)
    axes.annotate(
        f"{GOAL_FRAC:.0%} of the best known",
        (axes.get_xlim()[1], GOAL_FRAC * best),
        ha="right",
        va="top",
        fontsize=8,
    )
    axes.set_xlabel("worker-hours (virtual)")
    axes.set_xlim(0, None)
    axes.set_ylabel("hypervolume of the reported front")
    axes.set_ylim(0.7 * best, None)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("search_bench"),
        help="folder for the table, the picture and the JSON",
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of contenders")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    contenders = {
        name: contender
        for name, contender in (CONTENDERS | VARIANTS).items()
        if not given.only or name in given.only
    }
    tasks = [Task(VERY_LONG, tuple(VERY_LONG_SWEEP[1]), 0, given.lanes, VERY_LONG_SWEEP[0])]
    tasks += [
        Task(name, tuple(overrides), seed, given.lanes, virtual_s)
        for name, (virtual_s, overrides) in sorted(
            contenders.items(), key=lambda item: item[0] != "GP"
        )  # the slowest first
        for seed in range(given.seeds)
    ]
    histories = all_simulated(tasks, given.processes)
    best = max(max(history.hypervolumes) for history in histories)
    compared = [history for history in histories if history.contender != VERY_LONG]
    rows = table(compared, GOAL_FRAC * best)
    report(rows, best)
    draw(
        [history for history in compared if history.contender in CONTENDERS],
        best,
        given.out / "search_bench.png",
    )
    found = {
        "best_hypervolume": best,
        "goal": GOAL_FRAC * best,
        "rows": rows,
        "histories": [asdict(history) for history in histories],
    }
    (given.out / "search_bench.json").write_text(json.dumps(found))
    print(f"\n{given.out}/search_bench.json, .png")


def all_simulated(tasks: list[Task], processes: int) -> list[History]:
    """Run sweeps side by side, longest first; says what is done."""
    # One thread each: on few cores the libraries' own threads only get in each other's way.
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begun, histories = time.perf_counter(), []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for history in pool.imap_unordered(simulated, tasks):
            histories.append(history)
            done = (
                f"[{len(histories)}/{len(tasks)}, {time.perf_counter() - begun:.0f} s] {history.contender}"
                f" {history.seed}"
            )
            print(
                f"{done}: hypervolume {max(history.hypervolumes):.4f} after {len(history.hypervolumes)}"
                f" trials ({history.real_s:.0f} s)",
                flush=True,
            )
    return sorted(
        histories,
        key=lambda history: ([*CONTENDERS, *VARIANTS, VERY_LONG].index(history.contender), history.seed),
    )


def report(rows: list[dict[str, object]], best: float) -> None:
    """Print the table as Markdown."""
    print(
        f"\nBest known hypervolume {best:.4f}; worker-hours (virtual) to {GOAL_FRAC:.0%} of it,"
        f" {GOAL_FRAC * best:.4f}:\n"
    )
    print(
        "| search | median | quartiles | ratio to random | reached | trials (stopped) | hypervolume at the"
        " end |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        low, middle, high = (
            f"{hours:.2f}" if math.isfinite(hours) else "never" for hours in row["worker_hours"]
        )
        counts = f"{row['reached']} of {row['seeds']} | {row['trials']:.0f} ({row['stopped']:.0f})"
        print(
            f"| {row['contender']} | {middle} | {low} to {high} | {row['ratio']:.2f} | {counts} |"
            f" {row['final_hypervolume']:.4f} |"
        )


if __name__ == "__main__":
    main()
