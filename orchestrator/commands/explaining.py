"""What unlearning does inside a model."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.terminal import AsJson, Storage, Sweep, app, open_named, print_json, screen, user_errors
from search_spaces.user_errors import UserError

USUAL = "ga,npo,wga,wga+token,wga+sequence"


@app.command(rich_help_panel="Look inside")
def dynamics(
    sweep: Sweep,
    at: Annotated[str, typer.Option("--at", help="The policy: original, or a rung such as knee, t0007, t0007@2.")] = "original",
    losses: Annotated[str, typer.Option("--losses", help="Methods, each with its beliefs behind a plus sign.")] = USUAL,
    output: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="Picture to draw [default: beside the sweep].")] = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Predict what one unlearning step does to other answers (AKG), and take it: targets, rephrasings, likelihood bands, unrelated text."""
    with user_errors():
        from orchestrator.baselines import read_baselines
        from orchestrator.dynamics_view import draw_dynamics, show_dynamics
        from orchestrator.export import find_weights
        from orchestrator.objectives import criteria_of
        from orchestrator.rung_choice import choose_rung
        from trainables.dynamics_job import DynamicsJob, run_dynamics

        pairs = parse_losses(losses)
        folder, settings, study = open_named(sweep, storage)
        original = read_baselines(folder).get("original")
        if original is None:
            raise UserError(
                "the sweep has no measured models yet", key="SWEEP", value=sweep, remedy="run `lethe prepare` on its file first"
            )
        policy, name = original.folder, "the original model"
        if at != "original":
            chosen = choose_rung(study.records(), criteria_of(settings), at, "--at")
            policy, name = str(find_weights(folder, chosen)), chosen.name
        job = DynamicsJob(
            model=settings.model,
            data=settings.data,
            trial=settings.trial,
            folder=policy,
            original_folder=original.folder,
            original=str(original.measurement),
            losses=pairs,
        )
        found = run_dynamics(job, lambda line: typer.echo(line, err=True))
        picture = output or folder.path / f"dynamics-{'original' if at == 'original' else name}.png"
        draw_dynamics(picture, found, f"one step from {name} of {sweep}")
        if as_json:
            print_json(found)
        else:
            show_dynamics(found, screen())
            screen().print(f"picture: {picture}", highlight=False, soft_wrap=True)


def parse_losses(text: str) -> tuple[tuple[str, str], ...]:
    """`wga,wga+token+sequence` -> pairs of method and beliefs.

    Raises:
        UserError: There is no such method, or beliefs do not compose with it, or one step of it needs more than a policy.
    """
    from search_spaces.method_catalogue import METHODS

    fit = [name for name, info in METHODS.items() if not (info.reference_logits or info.preferred_answers or info.activations)]
    pairs = []
    for loss in text.split(","):
        method, _, beliefs = loss.strip().partition("+")
        kinds = ("token", "sequence", "token+sequence") if method in fit and METHODS[method].token_beliefs else ("sequence",)
        if method not in fit or beliefs not in ("", *kinds):
            raise UserError(
                "no such loss", key="--losses", value=loss.strip(), allowed=f"{', '.join(fit)}, with +token, +sequence or both behind it"
            )
        pairs.append((method, beliefs or "none"))
    return tuple(pairs)
