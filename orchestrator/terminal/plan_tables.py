"""Prints `lethe plan`: what a sweep would do, without starting it."""

import math
import os
import random
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.capacity.lane_capacity import require_lanes
from orchestrator.storage.baselines import plan_baselines
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.table import Column, Table
from orchestrator.terminal.cluster_plan_tables import ScaleOptions, show_memory_here, show_scale
from orchestrator.terminal.rich_tables import rich_table, say
from search_spaces.settings.space import Domain, sample
from search_spaces.settings.sweep_settings import SweepSettings
from trainables.data.examples import Benchmark

EXAMPLES = 5
"""Number of sampled trials that are printed."""
HERE = ScaleOptions()
"""Options that describe no cluster: the plan is for this machine."""


def show_plan(
    sweep: SweepSettings,
    file: str,
    benchmark: Benchmark,
    root: Path,
    console: Console,
    options: ScaleOptions = HERE,
) -> None:
    """Prints the search space, sampled trials, lanes, steps, and the models that have to be prepared.

    Lanes are those of this machine, or of the GPUs that `options` describe.

    Raises:
        UserError: Not even one lane fits on this machine, or the layout cannot start on the described GPUs.
    """
    console.print(rich_table(space_table(sweep)))
    say(console, "sampled trials, by chance (the sampler will choose better ones):")
    for number in range(EXAMPLES):
        say(console, f"  {sample_randomly(sweep, number)}")
    if options.cluster is None:
        lanes = _show_lanes(sweep, file, console)
        if not sweep.resources.gpus_per_worker:
            show_memory_here(sweep, benchmark, options, console)
        _show_steps(sweep, benchmark, lanes, console)
    else:
        show_scale(sweep, file, benchmark, steps_of_trial(sweep, benchmark), options, console)
    plan = plan_baselines(sweep, SweepFolder(root, sweep.name).models, benchmark.digest)
    prepared = sum(job.model.prepare.steps for job in plan.prepare)
    steps = f" ({prepared} steps in all)" if prepared else ""
    say(console, f"to prepare: {', '.join(job.name for job in plan.prepare) or 'nothing'}{steps}")
    say(console, f"to measure: {', '.join(job.name for job in plan.measure) or 'nothing'}")


def space_table(sweep: SweepSettings) -> Table:
    """Returns the search space as a table with a row per key."""
    columns = [Column("key"), Column("domain"), Column("only when", long=True)]
    rows = []
    for key, domain in sweep.space.items():
        conditions = (f"{name} in {', '.join(map(str, values))}" for name, values in domain.when.items())
        rows.append([key, describe(domain), "; ".join(conditions)])
    title = f"search space of {sweep.name}: {sweep.search.trials} trials by {sweep.search.sampler}"
    return Table(columns, rows, title=title)


def _show_lanes(sweep: SweepSettings, file: str, console: Console) -> int:
    resources = sweep.resources
    if resources.gpus_per_worker:
        # This machine need not have the cluster's GPUs, so lanes are only checked when the sweep starts.
        lanes = resources.max_lanes or 1
        needed = f"{lanes * resources.workers_per_trial * resources.gpus_per_worker:g} GPUs"
        say(
            console,
            f"lanes: {lanes} of {resources.workers_per_trial} workers with a GPU each; needs {needed}",
        )
        return lanes
    capacity = require_lanes([{"CPU": float(os.cpu_count() or 1)}], resources, file)
    say(
        console,
        f"lanes here: {capacity.lanes} of {resources.workers_per_trial} workers,"
        f" {resources.cpus_per_worker:g} CPU each",
    )
    return capacity.lanes


def steps_of_trial(sweep: SweepSettings, benchmark: Benchmark) -> int:
    """Returns the optimizer steps of one trial."""
    trial = sweep.trial
    return trial.steps or trial.epochs * math.ceil(len(benchmark.forget) / trial.optimizer.global_batch)


def _show_steps(sweep: SweepSettings, benchmark: Benchmark, lanes: int, console: Console) -> None:
    trial = sweep.trial
    batch = min(trial.optimizer.global_batch, len(benchmark.forget))
    steps = steps_of_trial(sweep, benchmark)
    say(console, f"data: {len(benchmark.forget)} forget and {len(benchmark.retain)} retain examples")
    say(console, f"a trial: {steps} steps of {batch} forget examples, {min(trial.rungs, steps)} evaluations")
    after_another = math.ceil(sweep.search.trials / lanes) * steps
    say(
        console,
        f"estimate: {sweep.search.trials * steps} trial steps, {after_another} in a row; times follow from"
        " the first trial",
    )


def sample_randomly(sweep: SweepSettings, seed: int) -> dict[str, Any]:
    """Draws one trial's parameters uniformly, on the scales of the space."""
    chance = random.Random(seed)

    def suggest(key: str, domain: Domain) -> Any:
        """Draws one value from a domain."""
        if domain.kind == "choice":
            return chance.choice(domain.choices)
        low, high = float(domain.low), float(domain.high)
        value = (
            math.exp(chance.uniform(math.log(low), math.log(high)))
            if domain.kind.startswith("log_")
            else chance.uniform(low, high)
        )
        return round(value) if domain.kind in ("int", "log_int") else float(f"{value:.3g}")

    return sample(sweep.space, sweep.trial, suggest)


def describe(domain: Domain) -> str:
    """Returns a domain in a few words, as the YAML writes it."""
    return (
        f"{domain.kind} {list(domain.choices)}"
        if domain.kind == "choice"
        else f"{domain.kind} [{domain.low:g}, {domain.high:g}]"
    )
