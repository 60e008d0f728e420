"""Before a sweep starts: is the file right, what would it do, and how would it go?"""

from typing import Annotated

import typer

from orchestrator.commands.terminal import File, Name, Overrides, Storage, app, load, load_data, screen, user_errors

PANEL = "Before a sweep"


@app.command(rich_help_panel=PANEL)
def validate(file: File, overrides: Overrides = None, name: Name = None) -> None:
    """Check a sweep file and the data it names."""
    with user_errors():
        sweep = load(file, overrides, name)
        benchmark = load_data(sweep, file)
        examples = f"{len(benchmark.forget)} forget, {len(benchmark.retain)} retain examples"
        screen().print(
            f"{file}: valid. {sweep.search.trials} trials over {len(sweep.space)} keys; {examples}.", highlight=False, soft_wrap=True
        )


@app.command(rich_help_panel=PANEL)
def plan(file: File, overrides: Overrides = None, name: Name = None, storage: Storage = None) -> None:
    """Show the space, sampled trials, lanes and what would be prepared. Starts nothing."""
    with user_errors():
        from orchestrator.plan_view import show_plan
        from orchestrator.sweep_folder import storage_root

        sweep = load(file, overrides, name)
        show_plan(sweep, file, load_data(sweep, file), storage_root(storage), screen())


@app.command(name="simulate", rich_help_panel=PANEL)
def simulate_sweep(
    file: File,
    overrides: Overrides = None,
    name: Name = None,
    lanes: Annotated[int, typer.Option("--lanes", min=1, help="Trials at a time.")] = 1,
    storage: Storage = None,
) -> None:
    """Run a closed-world sweep on recorded learning curves and a virtual clock: seconds in place of hours."""
    with user_errors():
        from orchestrator.simulation.simulate import simulate
        from orchestrator.sweep_folder import storage_root

        simulate(load(file, overrides, name), file, storage_root(storage), lanes, screen())
