"""A sweep whose trials are a smooth trade-off in closed form, for tests of the search against a real study in
a journal."""

import itertools
import math

from search_spaces.settings.sweep_settings import SweepSettings

SPACE = {
    "forget.method": {"choice": ["graddiff", "npo", "wga"]},
    "forget.npo.beta": {"log_uniform": [0.02, 1.0], "when": {"forget.method": "npo"}},
    "optimizer.learning_rate": {"log_uniform": [1e-6, 1e-4]},
    "beliefs": {"choice": ["none", "token"]},
    "token_belief.top_k": {"log_int": [1, 256], "when": {"beliefs": ["token"]}},
    "token_belief.temperature": {"uniform": [0.3, 2.5], "when": {"beliefs": ["token"]}},
}
NINE_POINTS = {"forget.method": {"choice": ["graddiff", "npo", "wga"]}, "epochs": {"int": [1, 3]}}
RATE = {"optimizer.learning_rate": {"uniform": [0.0001, 1.0]}}
SAMPLERS = ["tpe", "random", "qmc", "nsga2", "gp"]


def as_written(space=SPACE, blocks=None, **search_settings):
    return {
        "name": "little",
        "model": {"base": "scratch"},
        "data": {"benchmark": "closed_world"},
        "space": space,
        "objectives": {
            "mass": {"direction": "minimize", "reference": 1.0},
            "utility": {"direction": "maximize", "reference": 0.0},
        },
        "search": {"trials": 8, **search_settings},
        **(blocks or {}),
    }


def make_sweep(space=SPACE, blocks=None, **search_settings):
    return SweepSettings.model_validate(as_written(space, blocks, **search_settings))


def both_parts(**values):
    return {f"{part}/{name}": value for part in ("validation", "test") for name, value in values.items()}


def measured(params):
    """A smooth trade-off, so that samplers have something to learn."""
    rate = math.log10(params.get("optimizer.learning_rate", 1e-5)) + 6
    return both_parts(
        mass=1 / (1 + rate) + 0.1 * (params.get("forget.method") == "npo"), utility=1 - rate / 2
    )


def finish(study, number, metrics, *earlier):
    """Ends a trial that has reached these rungs."""
    for rung, at_rung in enumerate((*earlier, metrics), 1):
        study.tell_rung(number, rung, at_rung)
    study.finish(number)


def run(study, trials=None):
    """Asks and finishes until there is nothing left. Returns: what was asked."""
    asked = []
    for one in itertools.islice(iter(study.ask, None), trials):
        finish(study, one.number, measured(one.params))
        asked.append((one.number, one.params))
    return asked
