"""From a sweep file and `--set` to checked settings; whatever is wrong comes back as one message."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from search_spaces.catalogue.metric_catalogue import default_objectives
from search_spaces.checks.sweep_checks import check_sweep
from search_spaces.loading.yaml_text import parse_yaml, read_yaml
from search_spaces.paths import is_local, resolved
from search_spaces.settings.data_settings import LocalFilesData, MuseData, TofuData, WmdpData
from search_spaces.settings.space import Domain, dead_condition, trial_keys
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError, did_you_mean
from search_spaces.validation_messages import problems_of

PACKAGED = Path(__file__).parents[1]
SPACE = "space."
TRIAL = "trial."
PROBE = "evaluation.probe."


def load_sweep(path: Path, overrides: Sequence[str] = (), name: str | None = None) -> SweepSettings:
    """Read, override, validate and cross-check a sweep file.

    Args:
        path: a file, or the bare name of a packaged one (`quickstart` or `quickstart.yaml`) where no such file exists.
        overrides: `dotted.key=value` each, the value written as in YAML; `space.KEY=null` takes a key out of the space.
        name: in place of the file's own name; without either, the sweep is called like the file.

    Returns:
        Settings with objectives filled in, local paths absolute, and the space without keys that an override put out of reach.

    Raises:
        UserError: everything that is wrong, in one message.
    """
    try:
        resolved(str(path))
    except UserError as error:
        raise error.in_file(path) from error
    file = find_sweep_file(path)
    raw = read_yaml(file, path)
    for override in overrides:
        _override(raw, override)
    raw["name"] = name if name is not None else raw.get("name", file.stem)
    try:
        sweep = SweepSettings.model_validate(raw)
    except ValidationError as error:
        raise UserError.joined(problems_of(error, SweepSettings), path) from error
    try:
        sweep = _absolute(sweep)
    except UserError as error:
        raise error.in_file(path) from error
    sweep = _without_dead_keys(sweep, {_key_of(override).removeprefix(SPACE).removeprefix(TRIAL) for override in overrides})
    if not sweep.objectives:
        sweep = sweep.model_copy(update={"objectives": default_objectives(sweep)})
    check_sweep(sweep, path, pinned=[_key_of(override).removeprefix(TRIAL) for override in overrides if override.startswith(TRIAL)])
    return sweep


def with_probe_settings(sweep: SweepSettings, overrides: Sequence[str]) -> SweepSettings:
    """A sweep that is there already, its probes made in another way.

    Args:
        sweep: Resolved settings.
        overrides: `evaluation.probe.KEY=VALUE` each.

    Raises:
        UserError: A key is of another block, unknown, or a value is not allowed.
    """
    raw = sweep.model_dump(mode="json")
    for override in overrides:
        if not _key_of(override).startswith(PROBE):
            raise UserError(
                "an audit changes nothing but how probes are made", file="--set", key=_key_of(override), allowed=f"{PROBE}leak.k, ..."
            )
        _override(raw, override)
    try:
        return _absolute(SweepSettings.model_validate(raw))
    except ValidationError as error:
        raise UserError.joined(problems_of(error, SweepSettings), "--set") from error


def packaged_sweeps() -> list[str]:
    """File names of the sweeps that come with Lethe."""
    return sorted(file.name for file in PACKAGED.glob("*.yaml"))


def find_sweep_file(path: Path) -> Path:
    """The file that a person means.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError("is a folder", file=path, remedy="give the sweep file in it")
    if path.name == str(path):
        for packaged in (PACKAGED / path.name, PACKAGED / f"{path.name}.yaml"):
            if packaged.suffix == ".yaml" and packaged.is_file():
                return packaged
    near = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    raise UserError(
        f"no such sweep file.{did_you_mean(path, [*near, *packaged_sweeps()])}",
        file=path,
        remedy=f"give the path of a YAML file, or one that comes with Lethe: {', '.join(packaged_sweeps())}",
    )


def _key_of(override: str) -> str:
    return override.partition("=")[0].strip()


def _override(raw: dict[str, Any], override: str) -> None:
    """Put one `--set` into the raw mapping."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError("is not of the form key=value", file="--set", value=override, remedy="write, for example, --set search.trials=32")
    value = parse_yaml(text, "--set", key)
    if key.startswith(SPACE):
        _override_space(raw, key.removeprefix(SPACE), value)
        return
    *blocks, last = key.split(".")
    here = raw
    for depth, block in enumerate(blocks):
        below = here.setdefault(block, {})
        if below is None:  # `trial:` with nothing under it
            below = here[block] = {}
        if not isinstance(below, dict):
            raise UserError(
                "has nothing below it", file="--set", key=key, value=value, remedy=f"give {'.'.join(blocks[: depth + 1])} a plain value"
            )
        here = below
    here[last] = value


def _override_space(raw: dict[str, Any], key: str, value: Any) -> None:
    """Space keys hold dots themselves, so the rest of the override is one key, and its value a whole domain."""
    if not isinstance(raw.get("space"), dict):
        raw["space"] = {}
    space = raw["space"]
    if value is not None:
        space[key] = value
    elif key in space:
        del space[key]
    else:
        raise UserError(f"is not in the space.{did_you_mean(key, space)}", file="--set", key=SPACE + key, allowed=", ".join(space))


def _without_dead_keys(sweep: SweepSettings, touched: set[str]) -> SweepSettings:
    """Who narrows a choice by `--set` means what hangs on it to go too. In a file, a key that is never searched is a mistake."""
    space = dict(sweep.space)
    while dead := [key for key in space if touched.intersection(space[key].when) and _is_dead(sweep, space, key)]:
        touched = touched.union(dead)
        space = {key: domain for key, domain in space.items() if key not in dead}
    return sweep.model_copy(update={"space": space})


def _is_dead(sweep: SweepSettings, space: Mapping[str, Domain], key: str) -> bool:
    # Unknown keys are left for the checks to complain about.
    return trial_keys().keys() >= space[key].when.keys() and dead_condition(key, space, sweep.trial) is not None


def _absolute(sweep: SweepSettings) -> SweepSettings:
    """Relative local paths start where lethe is started. They become absolute at once, because workers may stand elsewhere."""

    def absolute(block: Any, prefix: str, *names: str) -> Any:
        paths = {name: getattr(block, name) for name in names}
        return block.model_copy(update={name: str(resolved(path, f"{prefix}.{name}")) for name, path in paths.items() if path is not None})

    data = sweep.data
    if isinstance(data, LocalFilesData):
        data = absolute(data, "data", "forget", "retain", "holdout")
    elif isinstance(data, TofuData | MuseData) and is_local(data.path):
        data = absolute(data, "data", "path")
    elif isinstance(data, WmdpData):
        questions = [name for name in ("path", "mmlu") if (place := getattr(data, name)) is not None and is_local(place)]
        data = absolute(data, "data", "forget_corpus", "retain_corpus", *questions)
    models = {"base": sweep.model.base, "target": sweep.model.target, "retrained": sweep.model.retrained}
    local = [name for name, model in models.items() if model is not None and model != "scratch" and is_local(model)]
    # Names of sweeps have no slash in them.
    earlier = tuple(str(resolved(source, "search.warm_start")) if "/" in source else source for source in sweep.search.warm_start)
    search = sweep.search.model_copy(update={"warm_start": earlier})
    judge = ["gibberish_model"] if is_local(sweep.evaluation.gibberish_model) else []
    evaluation = absolute(sweep.evaluation, "evaluation", *judge)
    paraphrase = absolute(evaluation.probe.paraphrase, "evaluation.probe.paraphrase", "file")
    evaluation = evaluation.model_copy(update={"probe": evaluation.probe.model_copy(update={"paraphrase": paraphrase})})
    model = absolute(sweep.model, "model", *local)
    return sweep.model_copy(update={"data": data, "model": model, "evaluation": evaluation, "search": search})
