"""`lethe simulate`: runs a sweep file without training, into an ordinary sweep folder."""

import time
from pathlib import Path
from shlex import quote

from rich.console import Console

from orchestrator.pareto.sweep_view import SweepView, read_view
from orchestrator.simulation.learning_curves import LearningCurves
from orchestrator.simulation.recorded_range import check_covered
from orchestrator.simulation.recording import Recording, packaged_recording
from orchestrator.simulation.virtual_sweep import VirtualSweep
from orchestrator.storage.sweep_folder import SweepFolder, storage_root
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.terminal.live_progress import duration
from orchestrator.terminal.rich_tables import say
from orchestrator.terminal.sweep_tables import show_front
from search_spaces.settings.sweep_settings import SweepSettings
from trainables.durable_files import write_json

SUFFIX = "-simulated"
"""Suffix of the name of a simulated sweep, so that it is never confused with a real one."""

LINE_EVERY_S = 2.0
"""Seconds between progress lines."""


def simulate(sweep: SweepSettings, file: str, root: Path, lanes: int, console: Console) -> VirtualSweep:
    """Simulates a sweep and prints its front.

    Args:
        sweep: Resolved settings of a sweep on the closed world.
        file: The sweep file, for messages.
        root: Folder of all sweeps.
        lanes: Number of trials that run at the same time.
        console: Console for the output.

    Raises:
        UserError: The sweep lies outside the recorded trials, or its folder cannot be used.
    """
    recording = packaged_recording()
    check_covered(sweep, recording, file)
    description = f"Simulated from {recording.note}. {sweep.description}"
    sweep = sweep.model_copy(update={"name": sweep.name + SUFFIX, "description": description})
    folder = SweepFolder(root, sweep.name)
    # The folder's lock is held until the simulation ends, as for a real sweep.
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
    """An observer that prints a progress line every few seconds.

    Args:
        simulated: The sweep whose progress is printed.
        console: Console for the output.
    """

    def __init__(self, simulated: VirtualSweep, console: Console) -> None:
        self.simulated, self.console = simulated, console
        self._next_line = time.monotonic() + LINE_EVERY_S

    def rung(self, record: TrialRecord, rung: int) -> None:
        """Prints nothing: a simulation has too many rungs for a line each."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Prints a progress line, at most one every `LINE_EVERY_S` seconds."""
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            sweep_state = self.simulated.sweep_state
            done = f"  {sweep_state.ended} of {self.simulated.sweep.search.trials} trials"
            say(self.console, f"{done}, hypervolume {sweep_state.reported_front.hypervolume:.4f}")

    def say(self, line: str) -> None:
        """Prints a line."""
        say(self.console, line)


def closing_lines(simulated: VirtualSweep) -> list[str]:
    """Returns the last lines of output: simulated cost, real cost, and the commands that show the results."""
    sweep_state, folder, stop_criterion = simulated.sweep_state, simulated.folder, simulated.stop_criterion
    counts = ", ".join(f"{count} {status}" for status, count in sorted(sweep_state.counts.items()) if count)
    driver_ms, ask_ms = (
        1e3 * spent_s / max(1, simulated.started_trials)
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
    # The option is needed only for a storage folder other than the default one.
    storage = "" if folder.root == storage_root(None) else f" --storage {quote(str(folder.root))}"
    return [*lines, f"to look closer: lethe front|status|report {folder.name}{storage}"]


def _write_baselines(folder: SweepFolder, recording: Recording) -> None:
    """Writes the recorded baselines into the sweep's folder, so that fronts and reports show them."""
    entries = {}
    for name, metrics in recording.baselines.items():
        measurement = folder.path / f"measured-{name}.json"
        write_json(measurement, {"metrics": metrics})
        entries[name] = {"folder": "simulated", "measurement": str(measurement)}
    write_json(folder.baselines, entries)
