"""Injects faults into real sweeps at random moments, and prints a table of their effects.

    python -m tests.chaos.chaos --injections 20         # made-up trials behind the real sweep code: an hour
    python -m tests.chaos.chaos --injections 3 --real   # real ZeRO-3 trials
    python -m tests.chaos.chaos --faults worker-killed --injections 2 --seed 7

Exit status 1 if a finished trial was lost or ran twice, stores disagree, a sweep did not end by itself, or a
fault was not reported to the user.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.faults import (
    Scene,
    Tally,
    anything,
    driver_killed,
    driver_terminated,
    trial_diverges,
    worker_hangs,
    worker_killed,
)
from tests.chaos.faults_around import disk_full, job_stopped, mlflow_away, node_removed

FAULTS: dict[str, Callable[[Scene, int], Tally]] = {
    "anything": anything,
    "worker-killed": worker_killed,
    "worker-hangs": worker_hangs,
    "trial-diverges": trial_diverges,
    "driver-killed": driver_killed,
    "driver-terminated": driver_terminated,
    "mlflow-away": mlflow_away,
    "disk-full": disk_full,
    "node-removed": node_removed,
    "job-stopped": job_stopped,
}
COLUMNS = (
    "fault",
    "injected",
    "sweeps",
    "trials",
    "finished lost",
    "repeated",
    "stores disagreeing",
    "did not end",
    "not reported",
    "minutes",
)


def inject(names: list[str], scene: Scene, injections: int) -> tuple[list[Tally], list[float]]:
    """Injects faults of each kind in turn. Returns: the tally of each kind, and the minutes that it took."""
    tallies, minutes = [], []
    print(heading(), flush=True)
    for name in names:
        started = time.monotonic()
        tallies.append(FAULTS[name](scene, injections))
        minutes.append((time.monotonic() - started) / 60)
        print(line(tallies[-1], minutes[-1]), flush=True)
    return tallies, minutes


def problems(tally: Tally) -> dict[str, list[str]]:
    """Returns the problems of each kind, in words; all lists are empty if the sweeps survived the faults."""
    found = tally.findings
    return {
        "lost": found.lost,
        "repeated": found.repeated,
        "disagreeing": found.disagreeing,
        "not_ended": tally.not_ended,
        # The key keeps its old name, because result files of earlier runs have it.
        "untold": tally.unreported,
    }


def heading() -> str:
    """Returns the head of the table as Markdown."""
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def line(tally: Tally, minutes: float) -> str:
    """Returns a row of the table as Markdown."""
    counts = [len(items) for items in problems(tally).values()]
    cells = [tally.fault, tally.injected, tally.sweeps, tally.trials, *counts, f"{minutes:.1f}"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Runs the command line. Returns: the exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--injections", type=int, default=20, help="number of faults of each kind")
    parser.add_argument("--real", action="store_true", help="real ZeRO-3 trials instead of made-up ones")
    parser.add_argument("--trials", type=int, help="trials of one sweep; default: 30 made-up or 5 real ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments at which faults strike")
    parser.add_argument("--folder", type=Path, help="folder for all files; default: a temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="lethe-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    trials, lanes = options.trials or (5 if options.real else 30), 1 if options.real else 2
    scene = Scene(folder, not options.real, random.Random(options.seed), trials, lanes)
    tallies, minutes = inject(options.faults, scene, options.injections)
    rows = []
    for tally, duration in zip(tallies, minutes, strict=True):
        counts = {"fault": tally.fault, "injected": tally.injected}
        counts |= {"sweeps": tally.sweeps, "trials": tally.trials, "minutes": duration}
        rows.append(counts | problems(tally))
    (folder / "chaos.json").write_text(json.dumps(rows, indent=1))
    found = [text for tally in tallies for texts in problems(tally).values() for text in texts]
    print(*found[:20], f"{len(found)} problems; all in {folder / 'chaos.json'}", sep="\n")
    # Too few injections are a failure as well: a fault that never struck has tested nothing.
    return 1 if found or any(tally.injected < options.injections for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
