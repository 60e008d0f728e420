"""Injects faults into real sweeps at random moments and prints what became of them.

    python -m tests.chaos.chaos --injections 20            # made-up trials behind the real sweep code, about
    an hour python -m tests.chaos.chaos --injections 3 --real      # real ZeRO-3 trials
    python -m tests.chaos.chaos --faults worker-killed --injections 2 --seed 7

Exit status 1 when a finished trial was lost or ran twice, stores disagree, a sweep did not end by itself, or
nobody was told.
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
    "not told",
    "minutes",
)


def inject(names: list[str], scene: Scene, injections: int) -> tuple[list[Tally], list[float]]:
    """Inject faults of every kind in turn. Returns: a tally each, and the minutes it took."""
    tallies, minutes = [], []
    print(heading(), flush=True)
    for name in names:
        started = time.monotonic()
        tallies.append(FAULTS[name](scene, injections))
        minutes.append((time.monotonic() - started) / 60)
        print(line(tallies[-1], minutes[-1]), flush=True)
    return tallies, minutes


def problems(tally: Tally) -> dict[str, list[str]]:
    """All that must be empty."""
    found = tally.findings
    return {
        "lost": found.lost,
        "repeated": found.repeated,
        "disagreeing": found.disagreeing,
        "not_ended": tally.not_ended,
        "untold": tally.untold,
    }


def heading() -> str:
    """Head of the table, in Markdown."""
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def line(tally: Tally, minutes: float) -> str:
    """A line of the table."""
    counts = [len(items) for items in problems(tally).values()]
    cells = [tally.fault, tally.injected, tally.sweeps, tally.trials, *counts, f"{minutes:.1f}"]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Run from the command line. Returns: the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--injections", type=int, default=20)
    parser.add_argument("--real", action="store_true", help="real ZeRO-3 trials in place of made-up ones")
    parser.add_argument("--trials", type=int, help="of one sweep; 30 made-up or 5 real ones when left out")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument(
        "--folder", type=Path, help="where sweeps and drivers' output go; a temporary one when left out"
    )
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="lethe-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    trials = options.trials or (5 if options.real else 30)
    scene = Scene(
        folder, not options.real, random.Random(options.seed), trials, lanes=1 if options.real else 2
    )
    tallies, minutes = inject(options.faults, scene, options.injections)
    rows = [
        {
            "fault": t.fault,
            "injected": t.injected,
            "sweeps": t.sweeps,
            "trials": t.trials,
            "minutes": m,
            **problems(t),
        }
        for t, m in zip(tallies, minutes, strict=True)
    ]
    (folder / "chaos.json").write_text(json.dumps(rows, indent=1))
    bad = [text for tally in tallies for texts in problems(tally).values() for text in texts]
    print(*bad[:20], f"{len(bad)} problems; all in {folder / 'chaos.json'}", sep="\n")
    return 1 if bad or any(tally.injected < options.injections for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
