"""What unlearning does inside a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import (
    AsJson,
    Storage,
    app,
    load,
    load_data,
    open_named,
    print_json,
    screen,
    user_errors,
)
from orchestrator.commands.run import sweep_run
from orchestrator.terminal.rich_tables import say
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from orchestrator.storage.baselines import Baseline
    from orchestrator.storage.sweep_folder import SweepFolder
    from search_spaces.settings.sweep_settings import SweepSettings

USUAL_FORMAT = "ga,npo,wga,wga+token,wga+sequence"


@app.command(rich_help_panel="Look inside")
def dynamics(
    sweep: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP|FILE", help="Name of a sweep, or a sweep file, whose models are prepared."
        ),
    ],
    at: Annotated[
        str, typer.Option("--at", help="The policy: original, or a rung such as knee, t0007, t0007@2.")
    ] = "original",
    losses: Annotated[
        str, typer.Option("--losses", help="Methods, each with its beliefs behind a plus sign.")
    ] = USUAL_FORMAT,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.png", help="Picture to draw [default: beside the sweep]."),
    ] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Predict what one unlearning step does to other answers (AKG), and take it: targets, rephrasings,
    likelihood bands, unrelated text."""
    with user_errors():
        from orchestrator.report.dynamics_picture import draw_dynamics
        from orchestrator.terminal.dynamics_tables import show_dynamics
        from trainables.analysis.dynamics_job import DynamicsJob, run_dynamics

        pairs = parse_losses(losses)
        is_file = Path(sweep).suffix in (".yaml", ".yml")
        looked_at = _of_file(sweep, at, storage) if is_file else _of_sweep(sweep, at, storage)
        job = DynamicsJob(
            model=looked_at.settings.model,
            data=looked_at.settings.data,
            trial=looked_at.settings.trial,
            folder=looked_at.policy,
            original_folder=looked_at.original.folder,
            original=str(looked_at.original.measurement),
            losses=pairs,
        )
        found = run_dynamics(job, lambda line: typer.echo(line, err=True))
        picture = output or looked_at.folder.path / f"dynamics-{looked_at.name}.png"
        draw_dynamics(picture, found, f"one step from {looked_at.title} of {looked_at.settings.name}")
        if as_json:
            print_json(found)
        else:
            show_dynamics(found, screen())
            say(screen(), f"picture: {picture}")


@dataclass(frozen=True)
class _LookedAt:
    """A policy of a sweep, and what it is compared with."""

    settings: "SweepSettings"
    folder: "SweepFolder"
    original: "Baseline"
    policy: str
    name: str
    """`original`, or a rung: `t0007@2`."""

    @property
    def title(self) -> str:
        return "the original model" if self.name == "original" else self.name


def _of_sweep(sweep: str, at: str, storage: Path | None) -> _LookedAt:
    from orchestrator.followups.model_export import find_weights
    from orchestrator.pareto.member_selection import choose_rung
    from orchestrator.pareto.objectives import criteria_of
    from orchestrator.storage.baselines import read_baselines

    folder, settings, study = open_named(sweep, storage)
    original = read_baselines(folder).get("original")
    if original is None:
        raise UserError(
            "the sweep has no measured models yet",
            key="SWEEP",
            value=sweep,
            remedy="give its file, and they are prepared",
        )
    if at == "original":
        return _LookedAt(settings, folder, original, original.folder, at)
    chosen = choose_rung(study.records(), criteria_of(settings), at, "--at")
    return _LookedAt(settings, folder, original, str(find_weights(folder, chosen)), chosen.name)


def _of_file(file: str, at: str, storage: Path | None) -> _LookedAt:
    """The original model of a sweep file, prepared and measured where that is still to do; no trial is
    run."""
    if at != "original":
        raise UserError(
            "a file has no rungs", key="--at", value=at, remedy="run the sweep, and give its name"
        )
    settings = load(file, None, None)
    load_data(settings, file)
    with sweep_run(settings, file, storage, None, quiet_stdout=True) as run:
        plan = run.prepare()
    return _LookedAt(settings, run.folder, plan.original, plan.original.folder, at)


def parse_losses(text: str) -> tuple[tuple[str, str], ...]:
    """`wga,wga+token+sequence` -> pairs of method and beliefs.

    Raises:
        UserError: There is no such method, or beliefs do not compose with it, or one step of it needs more
            than a policy.
    """
    from search_spaces.catalogue.method_catalogue import METHODS

    fit = [
        name
        for name, info in METHODS.items()
        if not (info.reference_logits or info.preferred_answers or info.activations)
    ]
    pairs = []
    for loss in text.split(","):
        method, _, beliefs = loss.strip().partition("+")
        kinds = (
            ("token", "sequence", "token+sequence")
            if method in fit and METHODS[method].token_beliefs
            else ("sequence",)
        )
        if method not in fit or beliefs not in ("", *kinds):
            raise UserError(
                "no such loss",
                key="--losses",
                value=loss.strip(),
                allowed=f"{', '.join(fit)}, with +token, +sequence or both behind it",
            )
        pairs.append((method, beliefs or "none"))
    return tuple(pairs)
