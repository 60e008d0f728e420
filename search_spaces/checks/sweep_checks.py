"""Checks across blocks: the space against the trial, objectives against the data, paths against the disk."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from search_spaces.catalogue.recipes import RECIPES
from search_spaces.checks.criteria_checks import check_criteria
from search_spaces.checks.method_checks import check_methods
from search_spaces.checks.text_checks import check_text
from search_spaces.paths import is_local
from search_spaces.settings.data_settings import LocalFilesData, MuseData, TofuData, WmdpData
from search_spaces.settings.dataset_files import missing_tables, muse_tables, wmdp_tables
from search_spaces.settings.space import (
    KEYS_ARE,
    Domain,
    Scalar,
    active,
    apply,
    dead_condition,
    ordered,
    same_value,
    trial_keys,
    trial_value,
)
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError, did_you_mean, shown
from search_spaces.validation_messages import WHOLE_NUMBER

# Irrational, so that this share of a range between whole bounds is not a whole number.
GOLDEN = (math.sqrt(5) - 1) / 2
LANE_KEYS = ("deepspeed", "engine.")
"""Prefixes of keys that cannot be searched: fixed when a lane starts, or without influence on results."""


def check_sweep(sweep: SweepSettings, file: object, pinned: Sequence[str] = ()) -> None:
    """Checks all that depends on more than one block.

    Args:
        sweep: Settings with objectives filled in.
        file: The sweep file, for messages.
        pinned: Trial keys that were set on the command line.

    Raises:
        UserError: The sweep has problems; one message lists all of them.
    """
    problems = list(_paths(sweep))
    # Available metrics depend on the files, so a missing file would cause misleading further problems.
    problems += [] if problems else list(check_criteria(sweep))
    # The other checks assume a valid space.
    in_space = list(_space(sweep))
    problems += in_space or [
        *_recipes(sweep),
        *_enqueue(sweep),
        *_pinned(sweep, pinned),
        *_early_stopping(sweep),
        *check_methods(sweep),
        *check_text(sweep),
    ]
    problems += _warm_start(sweep)
    if problems:
        raise UserError.joined(problems, file)


def _space(sweep: SweepSettings) -> Iterator[UserError]:
    problems = [problem for key, domain in sweep.space.items() for problem in _domain(sweep, key, domain)]
    yield from problems
    if problems:
        return
    try:
        ordered(sweep.space)
    except UserError as cycle:
        yield cycle
        return
    never_active = [_never_active(sweep, key) for key in sweep.space]
    yield from [problem for problem in never_active if problem is not None]


def _domain(sweep: SweepSettings, key: str, domain: Domain) -> Iterator[UserError]:
    place, keys = f"space.{key}", trial_keys()
    if key.startswith(LANE_KEYS):
        yield UserError(
            "cannot be searched: it belongs to a lane, not to a trial",
            key=place,
            remedy=f"set trial.{key} instead",
        )
        return
    if key not in keys:
        # A common mistake: keys of the space are written without `trial.`.
        short = key.removeprefix("trial.")
        hint = f' Did you mean "{short}"?' if short in keys else did_you_mean(key, keys)
        yield UserError(f"no such trial key.{hint}", key=place, allowed=KEYS_ARE)
        return
    problems = [_refused(sweep, key, value, place) for value in _sample_values(domain)]
    # One problem per domain is enough: all its values usually fail for the same reason.
    yield from [problem for problem in problems if problem is not None][:1]
    for other, values in domain.when.items():
        where = f"{place}.when.{other}"
        if other == key:
            yield UserError(
                "the condition refers to the key itself", key=where, remedy="remove the condition"
            )
        elif other not in keys:
            yield UserError(
                f"condition on a key that does not exist.{did_you_mean(other, keys)}",
                key=where,
                allowed=KEYS_ARE,
            )
        else:
            problems = [_refused(sweep, other, value, where) for value in values]
            yield from [problem for problem in problems if problem is not None]


def _sample_values(domain: Domain) -> list[Scalar]:
    """Returns sample values of a domain; a field that accepts all of them accepts the domain."""
    if domain.kind == "choice":
        return list(domain.choices)
    # For reals, a value that is not a whole number reveals an integer field whose bounds are whole.
    ends: list[Scalar] = [domain.low, domain.high]
    return ends if domain.is_int else [*ends, domain.low + GOLDEN * (domain.high - domain.low)]


def _refused(sweep: SweepSettings, key: str, value: Scalar, place: str) -> UserError | None:
    """Returns the problem if the trial refuses a value; None if it accepts the value."""
    try:
        taken = trial_value(apply(sweep.trial, {key: value}), key)
    except UserError as error:
        needs_int = error.allowed == WHOLE_NUMBER and isinstance(value, float)
        return UserError(
            f"the trial refuses a value: {error.message}",
            key=place,
            value=value,
            allowed=error.allowed,
            remedy="use int or log_int" if needs_int else error.remedy,
        )
    # Pydantic converts "5" to 5 and true to 1. The study stores the values of the space as written, so they
    # must have the right type already.
    if same_value(taken, value):
        return None
    allowed = f"values such as {shown(taken)}"
    return UserError("the trial refuses a value: has the wrong type", key=place, value=value, allowed=allowed)


def _never_active(sweep: SweepSettings, key: str) -> UserError | None:
    """Returns the problem if a condition of the key can never hold; None if the key can be searched."""
    other = dead_condition(key, sweep.space, sweep.trial)
    if other is None:
        return None
    if other in sweep.space:
        why = f"{other} is {sweep.space[other].text()}"
    else:
        why = f"{other} is not in the space, and trial.{other} is {shown(trial_value(sweep.trial, other))}"
    return UserError(
        f"is never searched: {why}",
        key=f"space.{key}.when.{other}",
        value=list(sweep.space[key].when[other]),
        remedy=f"search other values of {other}, set trial.{other}, or remove this key"
        f" (--set space.{key}=null)",
    )


def _pinned(sweep: SweepSettings, pinned: Sequence[str]) -> Iterator[UserError]:
    for key in pinned:
        # A key with conditions has the trial's own value where they do not hold, so fixing it has an effect.
        if key in sweep.space and not sweep.space[key].when:
            yield UserError(
                f"has no effect, because the key is searched {sweep.space[key].text()}",
                key=f"trial.{key}",
                remedy=f"add --set space.{key}=null",
            )


def _recipes(sweep: SweepSettings) -> Iterator[UserError]:
    for index, name in enumerate(sweep.search.recipes):
        place = f"search.recipes[{index}]"
        if name not in RECIPES:
            yield UserError(
                f"no such recipe.{did_you_mean(name, RECIPES)}",
                key=place,
                value=name,
                allowed=", ".join(RECIPES),
            )
            continue
        settings = RECIPES[name].settings
        for key, value in settings.items():
            # A searched key must contain the recipe's value; a key that is fixed must have it.
            if key in sweep.space and active(key, sweep.space, settings, sweep.trial):
                fits, change = sweep.space[key].contains(value), f"widen space.{key}"
                found = f"and it is searched {sweep.space[key].text()}"
            else:
                own = trial_value(sweep.trial, key)
                fits, change = same_value(own, value), f"set trial.{key}"
                found = f"and trial.{key} is {shown(own)}"
            if not fits:
                message = f"{key} is {shown(value)} in this recipe, {found}"
                yield UserError(message, key=place, value=name, remedy=f"{change}, or remove it")


def _enqueue(sweep: SweepSettings) -> Iterator[UserError]:
    remedy = "correct the entry, or start without any: --set search.enqueue=[]"
    for index, entry in enumerate(sweep.search.enqueue):
        for key, value in entry.items():
            place = f"search.enqueue[{index}].{key}"
            if key not in sweep.space:
                yield UserError(
                    f"is not in the space.{did_you_mean(key, sweep.space)}",
                    key=place,
                    value=value,
                    allowed=", ".join(sweep.space),
                    remedy=remedy,
                )
            elif not sweep.space[key].contains(value):
                yield UserError(
                    "is outside its domain",
                    key=place,
                    value=value,
                    allowed=sweep.space[key].text(),
                    remedy=remedy,
                )


def _early_stopping(sweep: SweepSettings) -> Iterator[UserError]:
    if sweep.early_stopping is None:
        return
    grace, rungs = sweep.early_stopping.grace_rungs, sweep.trial.rungs
    place = "trial.rungs"
    # The most rungs that a trial may have decide: one such trial can be stopped early.
    if "rungs" in sweep.space:
        domain, place = sweep.space["rungs"], "space.rungs"
        choices = [choice for choice in domain.choices if isinstance(choice, int)]
        rungs = int(max(choices, default=domain.high))
    if rungs < 2:
        yield UserError(
            "no trial can be stopped early, because the only rung is the last one",
            key="early_stopping",
            remedy=f"set {place} to 2 or more, or remove early_stopping",
        )
    elif grace >= rungs:
        yield UserError(
            f"must be below the number of rungs ({place} is {rungs}): no trial is stopped at the last one",
            key="early_stopping.grace_rungs",
            value=grace,
            allowed=f"1 to {rungs - 1}",
        )


def _warm_start(sweep: SweepSettings) -> Iterator[UserError]:
    if sweep.name in sweep.search.warm_start:
        yield UserError(
            "a sweep cannot learn from itself",
            key="search.warm_start",
            value=sweep.name,
            remedy="give another --name",
        )


def _paths(sweep: SweepSettings) -> Iterator[UserError]:
    # Hub ids are checked when a sweep starts, so that `lethe validate` works without a network.
    data = sweep.data
    if isinstance(data, LocalFilesData):
        yield from _data_files(data, "forget", "retain", "holdout")
    if isinstance(data, MuseData):
        yield from missing_tables(muse_tables(data).values())
    if isinstance(data, WmdpData):
        yield from missing_tables(wmdp_tables(data).values())
        yield from _data_files(data, "forget_corpus", "retain_corpus")
    if isinstance(data, TofuData) and is_local(data.path):
        yield from _tofu_folder(Path(data.path))
    judge = sweep.evaluation.gibberish_model
    if sweep.evaluation.fluency == "gibberish" and is_local(judge):
        yield from _model_folder("evaluation.gibberish_model", Path(judge))
    reworded = sweep.evaluation.probe.paraphrase.file
    if reworded is not None and not Path(reworded).is_file():
        yield UserError(
            "no such file",
            key="evaluation.probe.paraphrase.file",
            value=reworded,
            remedy="give one that exists, or leave it out",
        )
    for name in ("base", "target", "retrained"):
        model = getattr(sweep.model, name)
        if model is not None and model != "scratch" and is_local(model):
            yield from _model_folder(f"model.{name}", Path(model))


def _tofu_folder(folder: Path) -> Iterator[UserError]:
    key, value = "data.path", str(folder)
    if not folder.is_dir():
        remedy = "give TOFU's folder, or locuslab/TOFU for the hub"
        yield UserError("no such folder", key=key, value=value, remedy=remedy)
    elif not (folder / "full.json").is_file():
        remedy = "give TOFU's folder, one JSON file per split"
        yield UserError("the folder has no full.json", key=key, value=value, remedy=remedy)


def _data_files(data: LocalFilesData | WmdpData, *names: str) -> Iterator[UserError]:
    for name in names:
        path = getattr(data, name)
        if path is not None and not Path(path).is_file():
            remedy = f"give one that exists, or --set data.{name}=FILE"
            yield UserError("no such file", key=f"data.{name}", value=path, remedy=remedy)


def _model_folder(key: str, folder: Path) -> Iterator[UserError]:
    remedy = "give a folder as save_pretrained writes it, or a hub id"
    if not folder.is_dir():
        problem = "no such folder"
    elif not (folder / "config.json").is_file():
        problem = "the model folder has no config.json"
    elif not any(folder.glob("*.safetensors")):
        problem = "the model folder has no weights (*.safetensors)"
    else:
        return
    yield UserError(problem, key=key, value=str(folder), remedy=remedy)
