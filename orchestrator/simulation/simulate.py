"""`lethe simulate`: a sweep file without a single training step, in a folder that `lethe front`, `status` and
`report` read."""

import time
from pathlib import Path
from shlex import quote

from rich.console import Console

from orchestrator.pareto.sweep_view import SweepView, read_view
from orchestrator.simulation.learning_curves import LearningCurves
from orchestrator.simulation.recorded_range import check_covered
from orchestrator.simulation.recording import Recording, packaged_recording
from orchestrator.simulation.virtual_sweep import VirtualSweep
from orchestrator.storage.sweep_folder import SweepFolder, storage_root, write_json
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.terminal.live_progress import duration
from orchestrator.terminal.rich_tables import say
from orchestrator.terminal.sweep_tables import show_front
from search_spaces.settings.sweep_settings import SweepSettings

SUFFIX = "-simulated"
"""Ends the name of a simulated sweep, so that it is never mixed up with a real one."""

LINE_EVERY_S = 2.0
"""Seconds between signs of life."""


def simulate(sweep: SweepSettings, file: str, root: Path, lanes: int, console: Console) -> VirtualSweep:
    """Simulate a sweep, and say what came out.

    Args:
        sweep: Resolved settings of the closed world.
        file: The sweep file, for messages.
        root: Folder of all sweeps.
        lanes: Trials at a time.
        console: Where to show it.

    Raises:
        UserError: The sweep goes beyond what was recorded, or its folder cannot be used.
    """
    recording = packaged_recording()
    check_covered(sweep, recording, file)
    description = f"Simulated from {recording.note}. {sweep.description}"
    sweep = sweep.model_copy(update={"name": sweep.name + SUFFIX, "description": description})
    folder = SweepFolder(root, sweep.name)
    with folder.opened(sweep, file):
        _write_baselines(folder, recording)
        simulated = VirtualSweep(sweep, folder, lanes, LearningCurves(recording))
        simulated.run(SimulationProgress(simulated, console))
    show_front(simulated_view(simulated), console)
    for line in closing_lines(simulated):
        say(console, line)
    return simulated


def simulated_view(simulated: VirtualSweep) -> SweepView:
    """Returns the simulated sweep with the front that its driver has already."""
    front = simulated.sweep_state.reported_front
    return read_view(simulated.folder, simulated.sweep, simulated.study.records(), front=front)


class SimulationProgress:
    """An observer that prints now and then how far a simulation is.

    Args:
        simulated: What it watches.
        console: Where to say it.
    """

    def __init__(self, simulated: VirtualSweep, console: Console) -> None:
        self.simulated, self.console = simulated, console
        self._next_line = time.monotonic() + LINE_EVERY_S

    def rung(self, record: TrialRecord, rung: int) -> None:
        """Says nothing: there are too many."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Says something, if nothing was said lately."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            sweep_state = self.simulated.sweep_state
            done = f"  {sweep_state.ended} of {self.simulated.sweep.search.trials} trials"
            say(self.console, f"{done}, hypervolume {sweep_state.reported_front.hypervolume:.4f}")

    def say(self, line: str) -> None:
        """Says it."""
        say(self.console, line)


def closing_lines(simulated: VirtualSweep) -> list[str]:
    """What it would have cost, what it did cost, and where to look."""
    sweep_state, folder, stop_criterion = simulated.sweep_state, simulated.folder, simulated.stop_criterion
    counts = ", ".join(f"{count} {status}" for status, count in sorted(sweep_state.counts.items()) if count)
    driver_ms, ask_ms = (
        1e3 * spent_s / max(1, simulated.asked)
        for spent_s in (simulated.driver.seconds, simulated.study.ask_s)
    )
    lines = [
        (
            f"virtual: {sweep_state.worker_hours:.3f} worker-hours, {duration(stop_criterion.wall_s)} on"
            f" {simulated.lanes} lanes; {counts}"
        ),
        f"real: {driver_ms:.1f} ms of the driver per trial, {ask_ms:.1f} ms of it the sampler",
    ]
    if (reason := stop_criterion.reason()) is not None:
        lines.append(f"ended early: {reason}")
    storage = "" if folder.root == storage_root(None) else f" --storage {quote(str(folder.root))}"
    return [*lines, f"to look closer: lethe front|status|report {folder.name}{storage}"]


def _write_baselines(folder: SweepFolder, recording: Recording) -> None:
    """The recorded ones, so that fronts and reports show them."""
    entries = {}
    for name, metrics in recording.baselines.items():
        measurement = folder.path / f"measured-{name}.json"
        write_json(measurement, {"metrics": metrics})
        entries[name] = {"folder": "simulated", "measurement": str(measurement)}
    write_json(folder.baselines, entries)
