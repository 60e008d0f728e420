"""What unlearning does inside a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.options import (
    AsJson,
    Storage,
    app,
    load,
    load_data,
    old_spelling,
    open_named,
    print_json,
    screen,
    user_errors,
)
from orchestrator.commands.run import sweep_session
from orchestrator.terminal.rich_tables import say
from search_spaces.user_errors import UserError

if TYPE_CHECKING:
    from orchestrator.storage.baselines import Baseline
    from orchestrator.storage.sweep_folder import SweepFolder
    from search_spaces.settings.sweep_settings import SweepSettings
    from trainables.jobs import DynamicsJob

USUAL_LOSSES = "ga,npo,wga,wga+token,wga+sequence"


@app.command(rich_help_panel="Look inside")
def dynamics(
    sweep: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP|FILE", help="Name of a sweep, or a sweep file, whose models are prepared."
        ),
    ],
    trial: Annotated[
        str, typer.Option("--trial", help="The policy: original, or a rung such as knee, t0007, t0007@2.")
    ] = "original",
    at: Annotated[str | None, old_spelling("--at")] = None,
    losses: Annotated[
        str, typer.Option("--losses", help="Methods, each with its beliefs behind a plus sign.")
    ] = USUAL_LOSSES,
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
        from trainables.jobs import DynamicsJob

        trial = at or trial
        pairs = parse_losses(losses)
        is_file = Path(sweep).suffix in (".yaml", ".yml")
        looked_at = _of_file(sweep, trial, storage) if is_file else _of_sweep(sweep, trial, storage)
        job = DynamicsJob(
            model=looked_at.settings.model,
            data=looked_at.settings.data,
            trial=looked_at.settings.trial,
            folder=looked_at.policy,
            original_folder=looked_at.original.folder,
            original=str(looked_at.original.measurement),
            losses=pairs,
        )
        found = _run(looked_at, job, storage)
        picture = output or looked_at.folder.path / f"dynamics-{looked_at.name}.png"
        draw_dynamics(picture, found, looked_at.title)
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
        policy = "the original model" if self.name == "original" else self.name
        return f"one step from {policy} of {self.settings.name}"


def _run(looked_at: _LookedAt, job: "DynamicsJob", storage: Path | None) -> dict[str, Any]:
    """The dynamics, made on a lane of one worker."""
    settings, file = looked_at.settings, str(looked_at.folder.settings)
    with sweep_session(settings, file, storage, None, quiet_stdout=True) as session:
        from orchestrator.followups.dynamics_prediction import DynamicsTask
        from orchestrator.sweep.followup_runs import run_in_one_process

        task = DynamicsTask(looked_at.title, job)
        run_in_one_process(session, [task])
    return task.found


def _of_sweep(sweep: str, trial: str, storage: Path | None) -> _LookedAt:
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
    if trial == "original":
        return _LookedAt(settings, folder, original, original.folder, trial)
    chosen = choose_rung(study.records(), criteria_of(settings), trial, "--trial")
    return _LookedAt(settings, folder, original, str(find_weights(folder, chosen)), chosen.name)


def _of_file(file: str, trial: str, storage: Path | None) -> _LookedAt:
    """The original model of a sweep file, prepared and measured where that is still to do; no trial is
    run."""
    if trial != "original":
        raise UserError(
            "a file has no rungs", key="--trial", value=trial, remedy="run the sweep, and give its name"
        )
    settings = load(file, None, None)
    benchmark = load_data(settings, file)
    with sweep_session(settings, file, storage, None, benchmark=benchmark, quiet_stdout=True) as session:
        from orchestrator.sweep.followup_runs import prepare_baselines

        plan = prepare_baselines(session)
    return _LookedAt(settings, session.folder, plan.original, plan.original.folder, trial)


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
        if not (info.needs_reference_logits or info.preferred_answers or info.activations)
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
