"""`lethe validate`, `plan` and `simulate`: check a sweep file, and show what it would do, before it runs."""

from typing import Annotated

import typer

from orchestrator.commands.options import (
    File,
    Name,
    Overrides,
    Storage,
    app,
    load,
    load_data,
    open_named,
    screen,
    user_errors,
)
from orchestrator.terminal.rich_tables import say

PANEL = "Before a sweep"


@app.command(rich_help_panel=PANEL)
def validate(file: File, overrides: Overrides = None, name: Name = None) -> None:
    """Check a sweep file and the data it names."""
    with user_errors():
        sweep = load(file, overrides, name)
        benchmark = load_data(sweep, file)
        examples = f"{len(benchmark.forget)} forget, {len(benchmark.retain)} retain examples"
        size = f"{sweep.search.trials} trials over {len(sweep.space)} keys"
        say(screen(), f"{file}: valid. {size}; {examples}.")


@app.command(rich_help_panel=PANEL)
def plan(
    file: File,
    overrides: Overrides = None,
    name: Name = None,
    storage: Storage = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="Plan for this number of GPUs instead of this machine's."),
    ] = None,
    gpu_memory_gib: Annotated[
        float, typer.Option("--gpu-memory-gib", min=1, help="Memory of each GPU in GiB.")
    ] = 80.0,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=1, help="GPUs of one node.")] = 8,
    model_shape: Annotated[
        str | None,
        typer.Option(
            "--model-shape",
            help="1b, 8b, 70b (Llama), or a config.json, if the model's own configuration is not available.",
        ),
    ] = None,
    step_time_s: Annotated[
        float | None,
        typer.Option(
            "--step-time-s", min=0.0, help="Seconds per optimizer step, including its share of evaluation."
        ),
    ] = None,
    from_sweep: Annotated[
        str | None, typer.Option("--from-sweep", help="Take the step time from this sweep's finished trials.")
    ] = None,
    sequence_tokens: Annotated[
        int | None,
        typer.Option(
            "--sequence-tokens", min=2, help="Tokens of the longest example.", show_default="an estimate"
        ),
    ] = None,
) -> None:
    """Show the space, sampled trials, lanes, memory and models to prepare, on this machine or on given GPUs.

    Starts nothing.
    """
    with user_errors():
        from cluster.capacity.layouts import Cluster
        from orchestrator.storage.sweep_folder import storage_root
        from orchestrator.terminal.cluster_plan_tables import ScaleOptions, measured_step_s
        from orchestrator.terminal.plan_tables import show_plan, steps_of_trial

        sweep = load(file, overrides, name)
        benchmark = load_data(sweep, file)
        if from_sweep is not None and step_time_s is None:
            _, earlier, study = open_named(from_sweep, storage)
            # The steps of a trial follow from the size of its data, which may be another than this sweep's.
            earlier_data = benchmark if earlier.data == sweep.data else load_data(earlier, from_sweep)
            steps = steps_of_trial(earlier, earlier_data)
            step_time_s = measured_step_s(study.records(), steps, from_sweep)
        cluster = None if gpus is None else Cluster(gpus, gpu_memory_gib * 1024**3, gpus_per_node)
        options = ScaleOptions(cluster, model_shape, step_time_s, sequence_tokens)
        show_plan(sweep, file, benchmark, storage_root(storage), screen(), options)


@app.command(name="simulate", rich_help_panel=PANEL)
def simulate_sweep(
    file: File,
    overrides: Overrides = None,
    name: Name = None,
    lanes: Annotated[int, typer.Option("--lanes", min=1, help="Trials at the same time.")] = 1,
    storage: Storage = None,
) -> None:
    """Run a closed-world sweep on recorded learning curves: seconds on a virtual clock instead of hours."""
    with user_errors():
        from orchestrator.simulation.simulate import simulate
        from orchestrator.storage.sweep_folder import storage_root

        simulate(load(file, overrides, name), file, storage_root(storage), lanes, screen())
