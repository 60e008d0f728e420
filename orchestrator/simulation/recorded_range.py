"""Checks that a sweep lies within the recorded trials: outside of them, a simulation would extrapolate."""

from collections.abc import Iterator

from orchestrator.simulation.learning_curves import METRICS
from orchestrator.simulation.recording import Recording
from search_spaces.settings.space import Domain, trial_keys, trial_value
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError, did_you_mean

FREE = ("rungs", "seed", "deepspeed", "engine.", "optimizer.micro_batch")
"""Trial keys that may differ from the recorded trials.

The engine's settings have no influence on results; rungs and seed are simulated.
"""


def check_covered(sweep: SweepSettings, recording: Recording, file: object) -> None:
    """Checks that all trials of a sweep lie within the recorded ones.

    Args:
        sweep: Resolved settings.
        recording: The recorded trials.
        file: The sweep file, for messages.

    Raises:
        UserError: Some settings were not recorded; one message lists all of them.
    """
    # Checked first and alone: on another benchmark every other key would be a problem too.
    benchmark = sweep.data.benchmark
    if benchmark != "closed_world":
        raise UserError(
            "only the closed world can be simulated",
            file=file,
            key="data.benchmark",
            value=benchmark,
            allowed="closed_world",
        )
    problems = [*_space(sweep, recording), *_fixed(sweep, recording), *_metrics(sweep)]
    if problems:
        raise UserError.joined(problems, file)


def _space(sweep: SweepSettings, recording: Recording) -> Iterator[UserError]:
    for key, domain in sweep.space.items():
        recorded = recording.space.get(key)
        if recorded is None:
            hint = did_you_mean(key, recording.space)
            remedy = f"remove it: --set space.{key}=null"
            yield UserError(
                f"was not recorded.{hint}",
                key=f"space.{key}",
                allowed=", ".join(recording.space),
                remedy=remedy,
            )
        elif not all(recorded.contains(value) for value in _ends(domain)):
            yield UserError(
                "goes beyond what was recorded",
                key=f"space.{key}",
                value=domain.text(),
                allowed=recorded.text(),
            )


def _fixed(sweep: SweepSettings, recording: Recording) -> Iterator[UserError]:
    for key in trial_keys():
        value = trial_value(sweep.trial, key)
        if key in sweep.space or key.startswith(FREE):
            continue
        # A key that the recording searched may be fixed here, at any value of its recorded domain.
        if key in recording.space:
            if not recording.space[key].contains(value):
                yield UserError(
                    "was not recorded", key=f"trial.{key}", value=value, allowed=recording.space[key].text()
                )
        elif value != (recorded := trial_value(recording.trial, key)):
            yield UserError(
                "differs from the recorded trials", key=f"trial.{key}", value=value, allowed=str(recorded)
            )


def _metrics(sweep: SweepSettings) -> Iterator[UserError]:
    floors = sweep.early_stopping.floors if sweep.early_stopping else {}
    for block, names in (
        ("objectives", sweep.objectives),
        ("constraints", sweep.constraints),
        ("early_stopping.floors", floors),
    ):
        for name in names:
            if name not in METRICS:
                yield UserError(
                    f"is not simulated.{did_you_mean(name, METRICS)}",
                    key=f"{block}.{name}",
                    allowed=", ".join(METRICS),
                )


def _ends(domain: Domain) -> tuple[object, ...]:
    # A range lies within a recorded range if both of its ends do.
    return domain.choices if domain.kind == "choice" else (domain.low, domain.high)
