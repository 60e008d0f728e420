"""Loads a sweep file with `--set` overrides, and reports all problems in one message."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from search_spaces.catalogue.available_metrics import default_objectives
from search_spaces.checks.sweep_checks import check_sweep
from search_spaces.loading.absolute_paths import with_absolute_paths
from search_spaces.loading.overrides import SPACE, apply_override, key_of_override
from search_spaces.loading.yaml_text import read_yaml
from search_spaces.paths import resolved
from search_spaces.settings.space import Domain, dead_condition, trial_keys
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError, did_you_mean
from search_spaces.validation_messages import problems_of

PACKAGED = Path(__file__).parents[1]
TRIAL = "trial."


def load_sweep(path: Path, overrides: Sequence[str] = (), name: str | None = None) -> SweepSettings:
    """Reads, overrides, validates and cross-checks a sweep file.

    Args:
        path: A file; or, if no such file exists, the bare name of a packaged one (`quickstart` or
            `quickstart.yaml`).
        overrides: Overrides, each `dotted.key=value` with the value as in YAML; `space.KEY=null` removes a
            key from the space.
        name: Name of the sweep, instead of the `name` in the file. Without either, the sweep has the name of
            the file.

    Returns:
        Settings with default objectives filled in, with absolute local paths, and without keys of the space
        that an override has made unreachable.

    Raises:
        UserError: The file or an override is wrong; one message lists all problems.
    """
    # The path itself is checked first: a NUL in it would raise a ValueError further down.
    try:
        resolved(str(path))
    except UserError as error:
        raise error.in_file(path) from error
    file = find_sweep_file(path)
    # Messages name the file as it was given, and not the path of a packaged file.
    raw = read_yaml(file, path)
    for override in overrides:
        apply_override(raw, override)
    raw["name"] = name if name is not None else raw.get("name", file.stem)
    try:
        sweep = SweepSettings.model_validate(raw)
    except ValidationError as error:
        raise UserError.joined(problems_of(error, SweepSettings), path) from error
    try:
        sweep = with_absolute_paths(sweep)
    except UserError as error:
        raise error.in_file(path) from error
    keys = [key_of_override(override) for override in overrides]
    # An override that fixes `trial.X` or changes `space.X` concerns conditions on the key X.
    sweep = _without_unreachable_keys(sweep, {key.removeprefix(SPACE).removeprefix(TRIAL) for key in keys})
    # Defaults come after the paths, because they depend on which files exist.
    if not sweep.objectives:
        sweep = sweep.model_copy(update={"objectives": default_objectives(sweep)})
    pinned = [key.removeprefix(TRIAL) for key in keys if key.startswith(TRIAL)]
    check_sweep(sweep, path, pinned)
    return sweep


def packaged_sweeps() -> list[str]:
    """Returns the file names of the sweeps that come with Lethe."""
    return sorted(file.name for file in PACKAGED.glob("*.yaml"))


def find_sweep_file(path: Path) -> Path:
    """Finds a sweep file by its path, or a packaged one by its bare name.

    Raises:
        UserError: There is no such file.
    """
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError("is a folder", file=path, remedy="give the sweep file in it")
    # Only a bare name finds a packaged sweep: a wrong path must not start another sweep.
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


def _without_unreachable_keys(sweep: SweepSettings, touched: set[str]) -> SweepSettings:
    """Drops keys of the space that an override has made unreachable.

    In a file, an unreachable key is an error, which the checks report.
    """
    space, dead = dict(sweep.space), touched
    # Dropping a key can make keys unreachable whose conditions refer to it, hence the loop.
    while dead:
        depending = [key for key, domain in space.items() if touched.intersection(domain.when)]
        dead = {key for key in depending if _is_dead(sweep, space, key)}
        touched = touched | dead
        space = {key: domain for key, domain in space.items() if key not in dead}
    return sweep.model_copy(update={"space": space})


def _is_dead(sweep: SweepSettings, space: Mapping[str, Domain], key: str) -> bool:
    # Conditions on unknown keys have no value to compare with; the checks report them.
    conditions_exist = trial_keys().keys() >= space[key].when.keys()
    return conditions_exist and dead_condition(key, space, sweep.trial) is not None
