"""Is it really forgotten?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import (
    AsJson,
    Overrides,
    Storage,
    TrackingUri,
    app,
    load,
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
    from orchestrator.storage.followup_records import Audit
    from search_spaces.settings.evaluation_settings import EvaluationSettings
    from search_spaces.settings.sweep_settings import SweepSettings

EVERYTHING = "leak,paraphrase,prefix,relearn,quantise"


@app.command(rich_help_panel="Out of a sweep")
def audit(
    sweep: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help="Name of a sweep; none with --model.")
    ] = None,
    trial: Annotated[
        str,
        typer.Option(
            "--trial",
            help='front, knee, t0007, t0007@2 (on the front or not), or conditions such as "utility>=0.5".',
        ),
    ] = "front",
    front: Annotated[bool, old_spelling("--front")] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="FOLDER", help="Audit this folder or hub model, of no sweep."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE", help="With --model: the sweep file that names the data."),
    ] = None,
    probes: Annotated[
        str, typer.Option("--probes", help="Which probes; `judge` is made only when named.")
    ] = EVERYTHING,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Probe models for what looks forgotten and is not: drawn answers, other wordings, prefixes, relearning,
    rounded weights. Exit status 1: a model could not be audited."""
    with user_errors():
        if (sweep is None) == (model is None):
            raise UserError(
                "give one of the two",
                key="SWEEP, --model",
                value=f"{sweep}, {model}",
                remedy="name a sweep, or a model",
            )
        if model is not None:
            audits, failed, where = _audit_folder(model, data, probes, overrides, storage, as_json)
        else:
            assert sweep is not None
            audits, failed, where = _audit_sweep(
                sweep, "front" if front else trial, probes, overrides, storage, tracking_uri, as_json
            )
        if as_json:
            from orchestrator.terminal.audit_tables import audits_json

            print_json(audits_json(audits))
        else:
            from orchestrator.terminal.audit_tables import show_audits

            show_audits(audits, screen())
            say(screen(), where)
        if failed:
            say(
                screen(stderr=as_json),
                f"could not be audited: {', '.join(failed)}; the lines above say why",
            )
            raise typer.Exit(1)


def _audit_sweep(
    name: str,
    picked: str,
    probes: str,
    overrides: list[str] | None,
    storage: Path | None,
    tracking_uri: str | None,
    as_json: bool,
) -> "tuple[list[Audit], list[str], str]":
    from orchestrator.followups.model_export import find_weights
    from orchestrator.pareto.front import build_front
    from orchestrator.pareto.member_selection import ChosenRung, choose_rung, select_members
    from orchestrator.pareto.objectives import criteria_of
    from orchestrator.storage.followup_records import Subject
    from search_spaces.loading.changed_settings import with_probe_settings

    folder, settings, study = open_named(name, storage)
    evaluation = _probed(with_probe_settings(settings, overrides or ()), probes)
    records, criteria = study.records(), criteria_of(settings)
    if picked == "front":
        chosen = [
            ChosenRung(member.record, member.rung)
            for member in select_members(build_front(records, criteria), picked)
        ]
    else:
        chosen = [choose_rung(records, criteria, picked, "--trial")]
    # Before anything is started: what is not there cannot be audited.
    subjects = [Subject(rung.name, str(find_weights(folder, rung)), rung.rung) for rung in chosen]
    with sweep_session(
        settings, str(folder.settings), storage, tracking_uri, quiet_stdout=as_json
    ) as session:
        from orchestrator.sweep.followup_runs import audit_models

        audits, failed = audit_models(session, subjects, evaluation)
    return audits, failed, f"report: {folder.path / 'report.html'}"


def _audit_folder(
    model: str,
    data: str | None,
    probes: str,
    overrides: list[str] | None,
    storage: Path | None,
    as_json: bool,
) -> "tuple[list[Audit], list[str], str]":
    from orchestrator.storage.followup_records import Subject
    from search_spaces.paths import is_local, resolved

    if data is None:
        raise UserError(
            "the data is missing",
            key="--data",
            value=data,
            remedy="give a sweep file: its data, model and evaluation count",
        )
    place = str(resolved(model, "--model")) if is_local(model) else model
    settings = load(data, [*(overrides or ()), f"model.target={place}"], None)
    # A folder of its own, beside the sweeps.
    named = settings.model_copy(update={"name": f"audits/{settings.name}"})
    evaluation = _probed(settings, probes)
    with sweep_session(named, data, storage, None, quiet_stdout=as_json) as session:
        from orchestrator.sweep.followup_runs import audit_folder

        audits, failed = audit_folder(session, Subject(model, place), evaluation)
    return audits, failed, f"kept in {session.folder.path}"


def _probed(settings: "SweepSettings", probes: str) -> "EvaluationSettings":
    """The sweep's evaluation with the probes that `--probes` names.

    Raises:
        UserError: There is no such probe, or this sweep cannot make it.
    """
    from typing import get_args

    from search_spaces.settings.evaluation_settings import EvaluationSettings
    from search_spaces.settings.probe_settings import Probe

    wished, known = {name.strip() for name in probes.split(",") if name.strip()}, get_args(Probe)
    if not wished or wished - set(known):
        raise UserError("no such probe", key="--probes", value=probes, allowed=", ".join(known))
    # In one order, so that the same probes have one name.
    names = tuple(name for name in known if name in wished)
    if "judge" in names and settings.evaluation.probe.judge.url is None:
        remedy = "add --set evaluation.probe.judge.url=http://127.0.0.1:8000/v1"
        raise UserError("the probe `judge` needs a judge", key="--probes", value=probes, remedy=remedy)
    if "judge" in names and settings.redact:
        raise UserError(
            "the judge would be sent answers and the true text, and this sweep has `redact: true`",
            key="--probes",
            value=probes,
            remedy="leave judge out",
        )
    if "quantise" in names and settings.trial.engine.inference == "lockstep":
        raise UserError(
            "rounding needs a full copy of the model",
            key="--probes",
            value=probes,
            remedy="leave quantise out",
        )
    # Only what probes are about: fluency and bands have been measured.
    return EvaluationSettings(probes=names, probe=settings.evaluation.probe)
