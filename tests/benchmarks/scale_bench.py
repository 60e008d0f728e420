"""What the driver costs per trial when a sweep is very large: 10,000 simulated trials over 256 virtual lanes.

    python tests/benchmarks/scale_bench.py --out /tmp/scale_bench

Times are real ones, without those for making up results. The sampler's part is told apart, because it is not
ours.
"""

import argparse
import cProfile
import json
import multiprocessing
import os
import pstats
import resource
import statistics
import tempfile
from pathlib import Path

SWEEPS = {
    "random": ["search.sampler=random"],
    "random + early stopping": ["search.sampler=random", "early_stopping={}"],
    "TPE of the newest 500": ["search.sampler=tpe", "search.newest_trials=500"],
}
UNBOUNDED_AT = (1000, 3000, 10000)
"""Trials at which TPE is asked with all of them in its mind."""
ASKS = 5
RUNGS = 4


def load(overrides, trials):
    from search_spaces.loading.loader import load_sweep

    return load_sweep(
        Path("quickstart"),
        ["search.enqueue=[]", f"trial.rungs={RUNGS}", f"search.trials={trials}", *overrides],
        name="scale",
    )


def measured(name: str, trials: int, lanes: int, root: Path, profiled: bool) -> dict[str, object]:
    """Run one sweep in this process, which is of no other use: its memory is measured too."""
    from orchestrator.simulation.learning_curves import LearningCurves
    from orchestrator.simulation.recording import packaged_recording
    from orchestrator.simulation.virtual_sweep import SilentObserver, VirtualSweep
    from orchestrator.storage.sweep_folder import SweepFolder

    sweep = load(SWEEPS[name], trials)
    folder = SweepFolder(root, sweep.name)
    folder.create(sweep, "quickstart")
    run = VirtualSweep(sweep, folder, lanes, LearningCurves(packaged_recording()))
    before_mib = peak_mib()
    marks = []

    class Watch(SilentObserver):
        def trial_ended(self, record):
            marks.append((run.driver.seconds, run.study.ask_s))
            if len(marks) % 500 == 0:
                print(
                    f"  {name}: {len(marks)} of {trials} trials, {1e3 * marks[-1][0] / len(marks):.1f} ms"
                    " each",
                    flush=True,
                )

    profile = cProfile.Profile()
    if profiled:
        profile.enable()
    run.run(Watch())
    profile.disable()
    if profiled:
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    part = max(1, trials // 10)
    return {
        "sweep": name,
        "trials": len(marks),
        "first_ms": per_trial_ms(marks[:part]),
        "last_ms": per_trial_ms(marks[-part:]),
        "peak_mib": peak_mib(),
        "before_mib": before_mib,
        "journal_mib": folder.journal.stat().st_size / 2**20,
        "hypervolume": run.sweep_state.reported_front.hypervolume,
    }


def per_trial_ms(marks: list[tuple[float, float]]) -> dict[str, float]:
    """Mean real time between the ends of trials in milliseconds: of the driver without the sampler, and of
    the sampler."""
    (begun, asked), (ended, asked_in_all) = marks[0], marks[-1]
    count = max(1, len(marks) - 1)
    ask_ms = 1e3 * (asked_in_all - asked) / count
    return {"driver": 1e3 * (ended - begun) / count - ask_ms, "ask": ask_ms}


def unbounded_ask_ms(trials: int, lanes: int, root: Path) -> float:
    """Median time of TPE's ask in milliseconds, when it knows so many trials and as many run as there are
    lanes."""
    from orchestrator.search.study import Study
    from orchestrator.storage.sweep_folder import SweepFolder

    measured("random", trials, lanes, root, profiled=False)
    study = Study.open(
        SweepFolder(root, "scale").journal, load(["search.sampler=tpe"], trials + lanes + ASKS)
    )
    times = []
    for _ in range(ASKS):
        before = study.ask_s
        study.ask()
        times.append(study.ask_s - before)
    return 1e3 * statistics.median(times)


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(function, *arguments):
    """Call in a process of its own, so that memory is nobody else's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("scale_bench"), help="folder for the JSON")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--lanes", type=int, default=256)
    parser.add_argument("--only", nargs="*", default=list(SWEEPS), help="names of sweeps")
    parser.add_argument("--profile", action="store_true", help="print where the time goes; slower")
    parser.add_argument(
        "--no-unbounded", action="store_true", help="leave out TPE with all trials in its mind"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    rows, asks = [], {}
    for name in given.only:
        with tempfile.TemporaryDirectory() as root:
            rows.append(alone(measured, name, given.trials, given.lanes, Path(root), given.profile))
    for trials in () if given.no_unbounded else UNBOUNDED_AT:
        with tempfile.TemporaryDirectory() as root:
            asks[trials] = alone(unbounded_ask_ms, trials, given.lanes, Path(root))
            print(f"  TPE with {trials} trials in its mind: {asks[trials]:.0f} ms an ask", flush=True)
    report(rows, asks)
    (given.out / "scale_bench.json").write_text(json.dumps({"rows": rows, "unbounded_tpe_ask_ms": asks}))


def report(rows: list[dict[str, object]], asks: dict[int, float]) -> None:
    """Print the table as Markdown."""
    print(
        "\n| sweep | driver without the ask, first / last tenth (ms a trial) | ask, the same | peak memory"
        " (MiB) | journal (MiB) |"
    )
    print("|---|---|---|---|---|")
    for row in rows:
        first, last = row["first_ms"], row["last_ms"]
        times = f"{first['driver']:.1f} / {last['driver']:.1f} | {first['ask']:.1f} / {last['ask']:.1f}"
        print(
            f"| {row['sweep']}, {row['trials']} trials | {times} | {row['peak_mib']:.0f} |"
            f" {row['journal_mib']:.0f} |"
        )
    for trials, ask_ms in asks.items():
        print(f"| TPE of all {trials} trials | | {ask_ms:.0f} | | |")


if __name__ == "__main__":
    main()
