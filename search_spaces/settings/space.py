"""The `space:` block: domains of dotted trial keys, their conditions, and how a sample becomes a trial."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_serializer, model_validator

from search_spaces.settings.base_settings import Settings
from search_spaces.settings.trial_settings import TrialSettings
from search_spaces.user_errors import UserError, did_you_mean, shown
from search_spaces.validation_messages import problems_of

Kind = Literal["choice", "uniform", "log_uniform", "int", "log_int"]
Scalar = bool | int | float | str | None
KINDS: tuple[Kind, ...] = ("choice", "uniform", "log_uniform", "int", "log_int")
KEYS_ARE = "dotted fields of `trial`, such as forget.npo.beta"


class Domain(Settings):
    """The values of one searched key: in YAML `{log_uniform: [1.0e-6, 1.0e-4], when: {beliefs: token}}`."""

    kind: Kind
    """`choice` of listed values, `uniform` or `log_uniform` over reals, `int` or `log_int` over whole
    numbers; bounds are included."""
    choices: tuple[Scalar, ...] = ()
    """Values of a `choice`; empty otherwise."""
    low: int | float = 0
    """Lower bound, whole for `int` and `log_int`; 0 for a choice."""
    high: int | float = 0
    """Upper bound, whole for `int` and `log_int`; 0 for a choice."""
    when: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    """Other keys and the values that switch this one on; all must hold."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        # Before validation, because a domain in YAML does not have the fields of this class.
        if not isinstance(given, Mapping):
            raise ValueError("a domain is a mapping, such as {uniform: [0.0, 1.0]} or {choice: [npo, wga]}")
        words = (*KINDS, "when")
        unknown = [key for key in given if key not in words]
        if unknown:
            hint = did_you_mean(unknown[0], words)
            raise ValueError(f"unknown kind of domain {shown(unknown[0])}; use {', '.join(words)}.{hint}")
        # In YAML the kind is a key of its own, such as `uniform: [0, 1]`.
        kinds = [kind for kind in KINDS if kind in given]
        if len(kinds) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)} is needed, there are {len(kinds)}")
        kind = kinds[0]
        when = _conditions(given.get("when") or {})
        if kind == "choice":
            return {"kind": kind, "choices": _choices(given[kind]), "when": when}
        low, high = _bounds(kind, given[kind])
        return {"kind": kind, "low": low, "high": high, "when": when}

    @model_serializer
    def _written(self) -> dict[str, Any]:
        """Serialises the domain as in YAML, so that a resolved sweep can be read again."""
        values = list(self.choices) if self.kind == "choice" else [self.low, self.high]
        conditions = {"when": {key: list(allowed) for key, allowed in self.when.items()}} if self.when else {}
        return {self.kind: values, **conditions}

    @property
    def is_log(self) -> bool:
        """Whether the scale is logarithmic."""
        return self.kind.startswith("log_")

    @property
    def is_int(self) -> bool:
        """Whether the values are whole numbers between two bounds."""
        return self.kind in ("int", "log_int")

    def contains(self, value: object) -> bool:
        """Returns whether `value` can be drawn. `true` and `1` differ, as in YAML."""
        if self.kind == "choice":
            return any(same_value(value, choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and not (self.is_int and value != int(value))

    def as_drawn(self, value: Scalar) -> Scalar:
        """Converts a value of the domain to the type in which it is drawn: `2` to `2.0` in a real domain."""
        if self.kind == "choice":
            return next(choice for choice in self.choices if same_value(choice, value))
        assert isinstance(value, int | float), value
        return int(value) if self.is_int else float(value)

    def text(self) -> str:
        """Describes the domain: `one of "npo", "wga"` or `from 1 to 256, whole, on a log scale`."""
        if self.kind == "choice":
            return f"one of {', '.join(shown(choice) for choice in self.choices)}"
        scale = f"{', whole' * self.is_int}{', on a log scale' * self.is_log}"
        return f"from {self.low:g} to {self.high:g}{scale}"


def same_value(one: object, other: object) -> bool:
    """Returns whether two values are equal, where `true` and `1` differ, as in YAML."""
    # In Python, True == 1.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _choices(given: Any) -> tuple[Scalar, ...]:
    if not isinstance(given, list | tuple) or not given:
        raise ValueError("choice needs a list of values, such as [npo, wga]")
    for index, choice in enumerate(given):
        if not isinstance(choice, Scalar):
            raise ValueError(f"choice holds plain values only, not {shown(choice)}")
        if isinstance(choice, float) and not math.isfinite(choice):
            raise ValueError("choice holds finite numbers only")
        if any(same_value(choice, earlier) for earlier in given[:index]):
            raise ValueError(f"choice names {shown(choice)} twice")
    return tuple(given)


def _bounds(kind: Kind, given: Any) -> tuple[int | float, int | float]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise ValueError(f"{kind} needs two bounds, [low, high]")
    # Booleans are integers in Python, so they are excluded explicitly.
    for bound in given:
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ValueError(f"{kind} needs two finite numbers, and {shown(bound)} is none")
        if kind in ("int", "log_int") and bound != int(bound):
            real = kind.replace("int", "uniform")
            raise ValueError(f"{kind} needs whole bounds, and {shown(bound)} is not; use {real} for reals")
    # YAML may hold `1.0` for a whole bound and `1` for a real one. Optuna and JSON distinguish the types.
    low, high = (int(bound) if kind in ("int", "log_int") else float(bound) for bound in given)
    if low >= high:
        raise ValueError(
            f"inverted or empty bounds: low ({low:g}) must be below high ({high:g}); a fixed value belongs"
            " under `trial:`"
        )
    if kind.startswith("log_") and low <= 0:
        raise ValueError(f"{kind} needs bounds above 0, and low is {low:g}")
    return low, high


def _conditions(given: Any) -> dict[str, tuple[Scalar, ...]]:
    if not isinstance(given, Mapping):
        raise ValueError(
            "`when` maps keys to the value, or list of values, that switch this one on, such as"
            " {forget.method: npo}"
        )
    conditions: dict[str, tuple[Scalar, ...]] = {}
    for key, allowed in given.items():
        values = tuple(allowed) if isinstance(allowed, list | tuple) else (allowed,)
        if not values or not all(isinstance(value, Scalar) for value in values):
            raise ValueError(f"`when` needs a plain value, or a list of them, for {key}")
        conditions[str(key)] = values
    return conditions


def trial_keys(settings: type[BaseModel] = TrialSettings, prefix: str = "") -> dict[str, type[BaseModel]]:
    """Returns every dotted key of the trial that holds a value, with the class that declares it."""
    keys: dict[str, type[BaseModel]] = {}
    for name, field in settings.model_fields.items():
        # Only blocks are entered: the mapping `deepspeed` is a single value, never searched in part.
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= trial_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys[prefix + name] = settings
    return keys


def trial_value(trial: TrialSettings, key: str) -> Any:
    """Returns the trial's own value of a dotted key.

    Raises:
        UserError: The trial has no such key.
    """
    if key not in trial_keys():
        raise UserError(f"no such trial key.{did_you_mean(key, trial_keys())}", key=key, allowed=KEYS_ARE)
    value: Any = trial
    for name in key.split("."):
        value = getattr(value, name)
    return value


def active(key: str, space: Mapping[str, Domain], params: Mapping[str, Any], trial: TrialSettings) -> bool:
    """Returns whether the conditions of a key hold, given the values drawn so far.

    Args:
        key: A key of the space.
        space: All domains.
        params: The values drawn for the active keys on which `key` depends. A key that is missing here counts
            with the trial's own value.
        trial: The trial with its default values.
    """
    for other, allowed in space[key].when.items():
        given = params[other] if other in params else trial_value(trial, other)
        if not any(same_value(given, value) for value in allowed):
            return False
    return True


def dead_condition(key: str, space: Mapping[str, Domain], trial: TrialSettings) -> str | None:
    """Finds a condition that can never hold, so that `key` is never searched.

    Returns:
        The first key in the conditions of `key` that can never have an allowed value; None if there is none.
    """
    for other, allowed in space[key].when.items():
        domain = space.get(other)
        if domain is not None and any(domain.contains(value) for value in allowed):
            continue
        # A key that is inactive, or not searched at all, keeps the trial's own value.
        keeps_own = domain is None or bool(domain.when)
        own = trial_value(trial, other)
        if not keeps_own or not any(same_value(own, value) for value in allowed):
            return other
    return None


def ordered(space: Mapping[str, Domain]) -> list[str]:
    """Sorts the keys topologically: each comes after those it depends on, otherwise in the order of the file.

    Raises:
        UserError: The conditions form a cycle.
    """
    done: list[str] = []
    left = list(space)
    while left:
        # Conditions on keys outside the space depend on the trial alone, and are decided from the start.
        waiting = set(left)
        free = next((key for key in left if waiting.isdisjoint(space[key].when)), None)
        if free is None:
            cycle = _cycle(space, left)
            raise UserError(
                f"the conditions of these keys form a cycle: {', '.join(cycle)}",
                key=f"space.{cycle[0]}.when",
                remedy="remove one condition",
            )
        done.append(free)
        left.remove(free)
    return done


def _cycle(space: Mapping[str, Domain], waiting: list[str]) -> list[str]:
    """Returns one cycle among keys each of which depends on another of them."""
    # Follow the dependencies until a key is reached for the second time.
    path = [waiting[0]]
    while path.count(path[-1]) == 1:
        path.append(next(other for other in space[path[-1]].when if other in waiting))
    return path[path.index(path[-1]) : -1]


def sample(
    space: Mapping[str, Domain], trial: TrialSettings, suggest: Callable[[str, Domain], Any]
) -> dict[str, Any]:
    """Draws one value for every active key.

    Args:
        space: All domains.
        trial: The trial with its default values, which decide conditions on keys that are not searched.
        suggest: Returns the value of a key from its domain. It is called in an order in which the conditions
            of a key are decided before the key itself.

    Returns:
        The active keys and their values, in the order of the file, for `apply`.
    """
    params: dict[str, Any] = {}
    for key in ordered(space):
        if active(key, space, params, trial):
            params[key] = suggest(key, space[key])
    # Tables list the parameters in the order in which the user wrote them.
    return {key: params[key] for key in space if key in params}


def apply(trial: TrialSettings, params: Mapping[str, Any]) -> TrialSettings:
    """Returns the trial with some dotted keys replaced, validated as a whole.

    Raises:
        UserError: A key is unknown, or its field refuses a value.
    """
    keys = trial_keys()
    tree = trial.model_dump()
    for key, value in params.items():
        if key not in keys:
            hint = did_you_mean(key, keys)
            raise UserError(f"no such trial key.{hint}", key=key, value=value, allowed=KEYS_ARE)
        *blocks, name = key.split(".")
        block = tree
        for step in blocks:
            block = block[step]
        block[name] = value
    # `model_copy` would not validate, so the trial is rebuilt from plain values.
    try:
        return TrialSettings.model_validate(tree)
    except ValidationError as error:
        # Further problems usually follow from the first one, such as a check over the whole block.
        raise problems_of(error, TrialSettings)[0] from error
