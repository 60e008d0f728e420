"""A finished closed-world sweep made up in closed form, for tests of what is drawn and told about sweeps."""

import math
import random

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.storage.trial_records import TrialRecord, trial_id
from search_spaces.settings.sweep_settings import SweepSettings

METHODS = ("graddiff", "npo", "wga")
BELIEFS = ("none", "token", "sequence")
RUNGS = 4
BASELINES = {
    "original": {"canonical": 0.50, "rephrased": 0.488, "retain": 0.98, "coherence": 0.995},
    "retrained": {"canonical": 0.02, "rephrased": 0.021, "retain": 0.978, "coherence": 0.99},
}


def sweep(**more) -> SweepSettings:
    token, sequence = {"when": {"beliefs": ["token"]}}, {"when": {"beliefs": ["sequence"]}}
    return SweepSettings.model_validate(
        {
            "name": "synthetic",
            "description": "A made-up sweep.",
            "model": {"base": "scratch"},
            "data": {"benchmark": "closed_world"},
            "trial": {"epochs": 8, "rungs": RUNGS},
            "space": {
                "forget.method": {"choice": list(METHODS)},
                "beliefs": {"choice": list(BELIEFS)},
                "optimizer.learning_rate": {"log_uniform": [1e-4, 2e-3]},
                "retain.weight": {"log_uniform": [0.3, 5.0]},
                "token_belief.top_k": {"log_int": [1, 64], **token},
                "token_belief.temperature": {"uniform": [0.5, 2.5], **token},
                "token_belief.weight": {"uniform": [0.05, 0.6], **token},
                "sequence_belief.temperature": {"uniform": [0.5, 2.0], **sequence},
                "sequence_belief.weight": {"uniform": [0.1, 0.9], **sequence},
            },
            "objectives": {
                "forget_true_mass": {"direction": "minimize", "reference": 1.0},
                "utility": {"direction": "maximize", "reference": 0.0},
            },
            "search": {"trials": 20},
            **more,
        }
    )


def metrics(canonical: float, rephrased: float, retain: float, coherence: float) -> dict[str, float]:
    """Both parts; the test part a little worse."""
    found = {}
    for part, shift in (("validation", 0.0), ("test", 0.01)):
        values = {
            "forget_canonical_mass": canonical,
            "forget_rephrased_mass": rephrased + shift,
            "forget_true_mass": canonical + rephrased + shift,
            "forget_coherence": coherence,
            "retain_true_mass": retain - shift,
            "utility": 2 / (1 / coherence + 1 / (retain - shift)),
        }
        found |= {f"{part}/{name}": value for name, value in values.items()}
    return found


def rungs(strength: float, beliefs: str) -> list[dict[str, float]]:
    """Canonical mass falls; what it loses goes into rephrasings first, less so with beliefs; in the end all
    is lost."""
    found = []
    for rung in range(1, RUNGS + 1):
        push = strength * rung
        canonical = 0.5 * math.exp(-2.5 * push)
        caught = {"none": 0.05, "token": 0.5, "sequence": 1.0}[beliefs]
        rephrased = (0.988 - canonical) * math.exp(-0.5 * caught * push - 0.06 * push**2)
        found.append(
            metrics(
                canonical,
                rephrased,
                0.978 * math.exp(-0.09 * push**1.5),
                0.985 * math.exp(-0.07 * push**1.5) + 0.01,
            )
        )
    return found


def validation_only(metrics: dict[str, float]) -> dict[str, float]:
    """What is known of a rung that was not kept."""
    return {key: value for key, value in metrics.items() if key.startswith("validation")}


def records(
    trials: int = 20, failed: tuple[int, ...] = (7,), stopped: tuple[int, ...] = (11,)
) -> list[TrialRecord]:
    """Trials of which every rung was kept, but for the last one of those that were stopped, at their
    second."""
    draw = random.Random(0)
    found = []
    for number in range(trials):
        method, beliefs = METHODS[number % 3], BELIEFS[number // 3 % 3]
        rate = 1e-4 * 20 ** draw.random()
        params = {
            "forget.method": method,
            "beliefs": beliefs,
            "optimizer.learning_rate": rate,
            "retain.weight": 0.3 * 16 ** draw.random(),
        }
        if beliefs == "token":
            params |= {
                "token_belief.top_k": draw.randint(1, 64),
                "token_belief.temperature": draw.uniform(0.5, 2.5),
            }
            params |= {"token_belief.weight": draw.uniform(0.05, 0.6)}
        if beliefs == "sequence":
            params |= {
                "sequence_belief.temperature": draw.uniform(0.5, 2.0),
                "sequence_belief.weight": draw.uniform(0.1, 0.9),
            }
        strength = {"graddiff": 1.5, "npo": 1.0, "wga": 0.6}[method] * math.log(rate / 5e-5) / 2.2
        path = rungs(strength, beliefs)
        status, reason = "finished", None
        if number in failed:
            status, reason, path = (
                "failed",
                "loss is NaN at step 12 (forget term): lower optimizer.learning_rate",
                path[:2],
            )
        elif number in stopped:
            status, reason, path = (
                "stopped",
                "rank 5 of 7 at rung 2, the best 3 go on",
                [path[0], validation_only(path[1])],
            )
        took = 9.5 * len(path) / RUNGS
        times = {
            "duration_s": took,
            "spent_s": took,
            "started_at": 1.76e9 + 10 * number,
            "finished_at": 1.76e9 + 10 * number + took,
        }
        found.append(TrialRecord(trial_id(number), number, status, params, path[-1], path, reason, **times))
    return found


def view(**more) -> SweepView:
    keys = [*sweep().space]
    shares = {
        name: [draw.random() ** 2 for _ in keys]
        for name, draw in (("forget_true_mass", random.Random(1)), ("utility", random.Random(2)))
    }
    importances = {
        name: {key: share / sum(values) for key, share in zip(keys, values, strict=True)}
        for name, values in shares.items()
    }
    baselines = {name: metrics(**values) for name, values in BASELINES.items()}
    return SweepView(
        **{"sweep": sweep(), "records": records(), "baselines": baselines, "importances": importances, **more}
    )
