"""`lethe dynamics`: predict and measure what one unlearning step does to other answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.options import (
    CONDITIONS,
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

DEFAULT_LOSSES = "ga,npo,wga,wga+token,wga+sequence"


@app.command(rich_help_panel="Look inside")
def dynamics(
    sweep: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP|FILE", help="Name of a sweep, or a sweep file, whose models are prepared first."
        ),
    ],
    trial: Annotated[
        str,
        typer.Option("--trial", help=f"The policy: original, knee, t0007, t0007@2, or {CONDITIONS}."),
    ] = "original",
    at: Annotated[str | None, old_spelling("--at")] = None,
    losses: Annotated[
        str,
        typer.Option("--losses", help="Methods, separated by commas; beliefs follow a method with a plus."),
    ] = DEFAULT_LOSSES,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.png", help="Picture to draw.", show_default="in the sweep's folder"
        ),
    ] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Predict what one unlearning step does to other answers (AKG decomposition), and take the step.

    The answers are the targets, rephrasings, likelihood bands, and unrelated text.
    """
    with user_errors():
        from orchestrator.report.dynamics_picture import draw_dynamics
        from orchestrator.terminal.dynamics_tables import show_dynamics
        from trainables.jobs import DynamicsJob

        trial = at or trial
        pairs = parse_losses(losses)
        # A file is prepared if necessary; a name must belong to a sweep that has prepared its models.
        is_file = Path(sweep).suffix in (".yaml", ".yml")
        policy = _of_file(sweep, trial, storage) if is_file else _of_sweep(sweep, trial, storage)
        job = DynamicsJob(
            model=policy.settings.model,
            data=policy.settings.data,
            trial=policy.settings.trial,
            folder=policy.weights,
            original_folder=policy.original.folder,
            original=str(policy.original.measurement),
            losses=pairs,
        )
        found = _run(policy, job, storage)
        picture = output or policy.folder.path / f"dynamics-{policy.name}.png"
        draw_dynamics(picture, found, policy.title)
        if as_json:
            print_json(found)
        else:
            show_dynamics(found, screen())
            say(screen(), f"picture: {picture}")


@dataclass(frozen=True)
class _Policy:
    """The model that takes the step, with its sweep and the original model."""

    settings: "SweepSettings"
    folder: "SweepFolder"
    original: "Baseline"
    weights: str
    """Folder or hub id of the policy's weights."""
    name: str
    """`original`, or a rung: `t0007@2`."""

    @property
    def title(self) -> str:
        name = "the original model" if self.name == "original" else self.name
        return f"one step from {name} of {self.settings.name}"


def _run(policy: _Policy, job: "DynamicsJob", storage: Path | None) -> dict[str, Any]:
    """Runs the job on a lane of one worker, and returns its result."""
    settings, file = policy.settings, str(policy.folder.settings)
    # Progress goes to stderr, because the result on stdout may be JSON.
    with sweep_session(settings, file, storage, None, quiet_stdout=True) as session:
        from orchestrator.followups.dynamics_prediction import DynamicsTask
        from orchestrator.sweep.followup_runs import run_in_one_process

        task = DynamicsTask(policy.title, job)
        run_in_one_process(session, [task])
    return task.found


def _of_sweep(sweep: str, trial: str, storage: Path | None) -> _Policy:
    """Returns a policy of a sweep that has prepared its models.

    Raises:
        UserError: There is no such sweep or rung, or the models or weights do not exist.
    """
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
            remedy="give the sweep file instead: its models are then prepared",
        )
    if trial == "original":
        return _Policy(settings, folder, original, original.folder, trial)
    chosen = choose_rung(study.records(), criteria_of(settings), trial, "--trial")
    return _Policy(settings, folder, original, str(find_weights(folder, chosen)), chosen.name)


def _of_file(file: str, trial: str, storage: Path | None) -> _Policy:
    """Returns the original model of a sweep file, after preparing and measuring it if necessary.

    Raises:
        UserError: A rung was given, or the model cannot be prepared.
    """
    if trial != "original":
        raise UserError(
            "a file has no rungs",
            key="--trial",
            value=trial,
            remedy="run the sweep first, and give its name instead of the file",
        )
    settings = load(file, None, None)
    benchmark = load_data(settings, file)
    with sweep_session(settings, file, storage, None, benchmark=benchmark, quiet_stdout=True) as session:
        from orchestrator.sweep.followup_runs import prepare_baselines

        plan = prepare_baselines(session)
    return _Policy(settings, session.folder, plan.original, plan.original.folder, trial)


def parse_losses(text: str) -> tuple[tuple[str, str], ...]:
    """Parses `--losses`: `wga,wga+token` becomes `(("wga", "none"), ("wga", "token"))`.

    Raises:
        UserError: There is no such method, the beliefs do not compose with it, or one step of it needs more
            models or answers than the policy.
    """
    from search_spaces.catalogue.method_catalogue import METHODS

    # A step is computed from the policy's own logits, without other models, answers or activations.
    allowed = [
        name
        for name, info in METHODS.items()
        if not (info.needs_reference_logits or info.preferred_answers or info.activations)
    ]
    pairs = []
    for loss in text.split(","):
        method, _, beliefs = loss.strip().partition("+")
        kinds = ["", "sequence"]
        if method in allowed and METHODS[method].token_beliefs:
            kinds += ["token", "token+sequence"]
        if method not in allowed or beliefs not in kinds:
            raise UserError(
                "no such loss",
                key="--losses",
                value=loss.strip(),
                allowed=f"{', '.join(allowed)}, with +token, +sequence or +token+sequence behind it",
            )
        pairs.append((method, beliefs or "none"))
    return tuple(pairs)
