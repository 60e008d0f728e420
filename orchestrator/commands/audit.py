"""`lethe audit`: probe models for knowledge that the evaluation does not bring out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import (
    CONDITIONS,
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
    from orchestrator.storage.followup_records import Audit, Subject
    from orchestrator.storage.sweep_folder import SweepFolder
    from orchestrator.storage.trial_records import TrialRecord
    from search_spaces.settings.evaluation_settings import EvaluationSettings
    from search_spaces.settings.sweep_settings import SweepSettings

DEFAULT_PROBES = "leak,paraphrase,prefix,relearn,quantise"
"""All probes except `judge`, which needs a server with a language model."""

Selection = Annotated[
    str,
    typer.Option("--trial", help=f"front, knee, t0007, t0007@2 (also off the front), or {CONDITIONS}."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="FOLDER", help="Audit this folder or hub model instead of a sweep."),
]
DataFile = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE", help="With --model: the sweep file that names the data."),
]
Probes = Annotated[
    str,
    typer.Option("--probes", help="Names of probes, separated by commas; the default leaves out `judge`."),
]


@app.command(rich_help_panel="Out of a sweep")
def audit(
    sweep: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help="Name of a sweep; leave it out with --model.")
    ] = None,
    trial: Selection = "front",
    front: Annotated[bool, old_spelling("--front")] = False,
    model: Model = None,
    data: DataFile = None,
    probes: Probes = DEFAULT_PROBES,
    overrides: Overrides = None,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Probe models for facts that look forgotten and are not.

    The probes draw many answers, rephrase the question, give the start of the
    answer, relearn for a few steps, and round the weights.
    Exit status 1: a model could not be audited.
    """
    with user_errors():
        if (sweep is None) == (model is None):
            raise UserError(
                "give one of the two",
                key="SWEEP, --model",
                value=f"{sweep}, {model}",
                remedy="name a sweep, or a model",
            )
        if model is not None:
            audits, failed, place = _audit_folder(model, data, probes, overrides, storage, as_json)
        else:
            assert sweep is not None
            # `--front` is the old spelling of `--trial front`.
            selected = "front" if front else trial
            audits, failed, place = _audit_sweep(
                sweep, selected, probes, overrides, storage, tracking_uri, as_json
            )
        if as_json:
            from orchestrator.terminal.audit_tables import audits_json

            print_json(audits_json(audits))
        else:
            from orchestrator.terminal.audit_tables import show_audits

            show_audits(audits, screen())
            say(screen(), place)
        if failed:
            names = ", ".join(failed)
            # With --json, stdout holds nothing but JSON.
            say(screen(stderr=as_json), f"could not be audited: {names}; the lines above say why")
            raise typer.Exit(1)


def _audit_sweep(
    name: str,
    selected: str,
    probes: str,
    overrides: list[str] | None,
    storage: Path | None,
    tracking_uri: str | None,
    as_json: bool,
) -> "tuple[list[Audit], list[str], str]":
    """Returns the audits, the names of models that could not be audited, and where the report is."""
    from search_spaces.loading.changed_settings import with_probe_settings

    folder, settings, study = open_named(name, storage)
    evaluation = _with_probes(with_probe_settings(settings, overrides or ()), probes)
    subjects = _subjects(folder, settings, study.records(), selected)
    file = str(folder.settings)
    with sweep_session(settings, file, storage, tracking_uri, quiet_stdout=as_json) as session:
        from orchestrator.sweep.followup_runs import audit_models

        audits, failed = audit_models(session, subjects, evaluation)
    return audits, failed, f"report: {folder.path / 'report.html'}"


def _subjects(
    folder: "SweepFolder", settings: "SweepSettings", records: "list[TrialRecord]", selected: str
) -> "list[Subject]":
    """Returns the selected rungs with the folders of their weights.

    Raises:
        UserError: There is no such rung, or its weights were not kept.
    """
    from orchestrator.followups.model_export import find_weights
    from orchestrator.pareto.front import build_front
    from orchestrator.pareto.member_selection import ChosenRung, choose_rung, select_members
    from orchestrator.pareto.objectives import criteria_of
    from orchestrator.storage.followup_records import Subject

    criteria = criteria_of(settings)
    # `choose_rung` also finds rungs off the front, but only one at a time.
    if selected == "front":
        members = select_members(build_front(records, criteria), selected)
        rungs = [ChosenRung(member.record, member.rung) for member in members]
    else:
        rungs = [choose_rung(records, criteria, selected, "--trial")]
    return [Subject(rung.name, str(find_weights(folder, rung)), rung.rung) for rung in rungs]


def _audit_folder(
    model: str,
    data: str | None,
    probes: str,
    overrides: list[str] | None,
    storage: Path | None,
    as_json: bool,
) -> "tuple[list[Audit], list[str], str]":
    """Returns the audit, the name of the model if it could not be audited, and where the results are."""
    from orchestrator.storage.followup_records import Subject
    from search_spaces.paths import is_local, resolved

    if data is None:
        raise UserError(
            "the data is missing",
            key="--data",
            value=data,
            remedy="give a sweep file: its data, model and evaluation settings are used",
        )
    weights = str(resolved(model, "--model")) if is_local(model) else model
    settings = load(data, [*(overrides or ()), f"model.target={weights}"], None)
    # The audit is no part of a sweep of this name, so it has a folder of its own, which no command lists.
    beside = settings.model_copy(update={"name": f"audits/{settings.name}"})
    evaluation = _with_probes(settings, probes)
    with sweep_session(beside, data, storage, None, quiet_stdout=as_json) as session:
        from orchestrator.sweep.followup_runs import audit_folder

        audits, failed = audit_folder(session, Subject(model, weights), evaluation)
    return audits, failed, f"results: {session.folder.path}"


def _with_probes(settings: "SweepSettings", probes: str) -> "EvaluationSettings":
    """Returns evaluation settings with the probes that `--probes` names.

    Raises:
        UserError: There is no such probe, or it does not work with the sweep's settings.
    """
    from typing import get_args

    from search_spaces.settings.evaluation_settings import EvaluationSettings
    from search_spaces.settings.probe_settings import Probe

    wanted, known = {name.strip() for name in probes.split(",") if name.strip()}, get_args(Probe)
    if not wanted or wanted - set(known):
        raise UserError("no such probe", key="--probes", value=probes, allowed=", ".join(known))
    # Sorted as declared, so that the same probes in any order have the same hash of settings.
    names = tuple(name for name in known if name in wanted)
    if "judge" in names and settings.evaluation.probe.judge.url is None:
        remedy = "add --set evaluation.probe.judge.url=http://127.0.0.1:8000/v1"
        raise UserError("the probe `judge` needs a judge", key="--probes", value=probes, remedy=remedy)
    if "judge" in names and settings.redact:
        raise UserError(
            "the probe `judge` sends answers and true text to a server, and this sweep has `redact: true`",
            key="--probes",
            value=probes,
            remedy="leave judge out",
        )
    if "quantise" in names and settings.trial.engine.inference == "lockstep":
        raise UserError(
            "rounding needs a full copy of the model, and this sweep has `engine.inference: lockstep`",
            key="--probes",
            value=probes,
            remedy="leave quantise out",
        )
    # Other settings of the evaluation, such as fluency, were measured by the sweep already.
    return EvaluationSettings(probes=names, probe=settings.evaluation.probe)
