"""Checks that the methods of a sweep are compatible with its beliefs and its retain losses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from search_spaces.catalogue.method_catalogue import METHODS
from search_spaces.settings.space import Scalar, active, ordered, trial_value
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

CHECKED_KEYS = ("forget.method", "beliefs", "retain.loss")


def check_methods(sweep: SweepSettings) -> Iterator[UserError]:
    """Yields the incompatible combinations that the sweep could run.

    Args:
        sweep: Settings whose space has valid keys and conditions.
    """
    trials = [*_drawn(sweep), *(_completed(sweep, entry) for entry in sweep.search.enqueue)]
    without_target = {(trial.method, trial.beliefs) for trial in trials if trial.ignores_token_beliefs}
    for method, beliefs in sorted(without_target):
        able = ", ".join(name for name, info in METHODS.items() if info.token_beliefs)
        yield UserError(
            f"{METHODS[method].name} lowers no target's probability, as token beliefs require",
            key="space.beliefs" if "beliefs" in sweep.space else "trial.beliefs",
            value=f"{beliefs} with {method}",
            allowed="none or sequence with it",
            remedy=(
                f"switch beliefs on for the others only: when: {{forget.method: [{able}]}}, with"
                " trial.beliefs none"
            ),
        )
    on_other_layers = {(trial.method, trial.retain) for trial in trials if trial.ignores_retain_loss}
    for method, loss in sorted(on_other_layers):
        able = ", ".join(name for name, info in METHODS.items() if info.activations)
        above = METHODS[method].activations
        why = "runs no layer above the activations that it steers" if above else "does not use activations"
        yield UserError(
            f"{METHODS[method].name} {why}",
            key="space.retain.loss" if "retain.loss" in sweep.space else "trial.retain.loss",
            value=f"{loss} with {method}",
            allowed=f"{'activations' if above else 'nll, kl'} or none with it",
            remedy=(
                f"search retain.loss: {{choice: [activations], when: {{forget.method: [{able}]}}}};"
                " trial.retain.loss is for the others"
            ),
        )
    if any(trial.method == "pdu" and trial.retain == "none" for trial in trials):
        yield UserError(
            "PDU bounds the retain loss, and the trial has none",
            key="retain.loss",
            value="none",
            allowed="nll or kl",
            remedy="choose one",
        )
    answers = sweep.trial.forget.preferred.answers
    if answers is not None:
        yield from _answers_file(answers)


@dataclass(frozen=True)
class _Trial:
    """The checked settings of one possible trial.

    A setting is empty if an enqueued entry leaves it to the sampler; the drawn combinations cover it.
    """

    method: str
    beliefs: str
    retain: str

    @property
    def ignores_token_beliefs(self) -> bool:
        """Whether token beliefs are on, and the method lowers no target that they could replace."""
        if not self.method or "token" not in self.beliefs.split("+"):
            return False
        return not METHODS[self.method].token_beliefs

    @property
    def ignores_retain_loss(self) -> bool:
        """Whether the retain loss is computed on layers that the method does not run."""
        if not self.method or self.retain in ("", "none"):
            return False
        # Methods on activations need the retain loss on activations, and all others must not have it.
        return (self.retain == "activations") != METHODS[self.method].activations


def _answers_file(path: str) -> Iterator[UserError]:
    key, remedy = "trial.forget.preferred.answers", "give a text file with one answer per line"
    file = Path(path).expanduser()
    if not file.is_file():
        yield UserError("no such file", key=key, value=path, remedy=remedy)
    elif not file.read_text(encoding="utf-8", errors="replace").strip():
        yield UserError("the file is empty", key=key, value=path, remedy=remedy)


def _completed(sweep: SweepSettings, entry: Mapping[str, Scalar]) -> _Trial:
    """Completes an enqueued entry: keys that are not searched have the trial's own value."""
    own = {key: "" if key in sweep.space else trial_value(sweep.trial, key) for key in CHECKED_KEYS}
    return _Trial(*(str(entry.get(key, own[key])) for key in CHECKED_KEYS))


def _drawn(sweep: SweepSettings) -> Iterator[_Trial]:
    """Yields all combinations of the checked keys that the sampler can draw."""
    keys = _with_conditions(sweep)
    for drawn in product(*(_values(sweep, key) for key in keys)):
        offered = dict(zip(keys, drawn, strict=True))
        params: dict[str, Scalar] = {}
        for key in keys:
            if active(key, sweep.space, params, sweep.trial):
                params[key] = offered[key]
        # A key that is not searched, or whose conditions do not hold, has the trial's own value.
        own = {key: trial_value(sweep.trial, key) for key in CHECKED_KEYS}
        yield _Trial(*(str((own | params)[key]) for key in CHECKED_KEYS))


def _with_conditions(sweep: SweepSettings) -> list[str]:
    """Returns the searched keys among the checked ones, and all keys on which their conditions depend.

    Each key comes after the keys of its conditions.
    """
    wanted: set[str] = set()
    found = {key for key in CHECKED_KEYS if key in sweep.space}
    while found:
        wanted |= found
        conditions = {other for key in found for other in sweep.space[key].when}
        found = {other for other in conditions if other in sweep.space} - wanted
    return [key for key in ordered(sweep.space) if key in wanted]


def _values(sweep: SweepSettings, key: str) -> list[Scalar]:
    """Returns the values of a key that conditions can distinguish."""
    domain = sweep.space[key]
    if domain.kind == "choice":
        return list(domain.choices)
    # A range has infinitely many values. Conditions distinguish only those that they name; any other value,
    # such as the lower bound, represents the rest.
    named = [value for other in sweep.space.values() for value in other.when.get(key, ())]
    return [domain.low, *filter(domain.contains, named)]
