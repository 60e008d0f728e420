"""Small sweeps with a front of three trials, searched and confirmed, for tests of what is said about several
of them."""

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.storage.followup_records import Confirmation
from tests.support.sweeps.random_trials import measured, record
from tests.support.sweeps.study_with_known_optimum import make_sweep

BASELINES = {"original": measured((0.9, 0.9), (0.9, 0.9))}
POINTS = ((0.8, 0.9), (0.5, 0.7), (0.2, 0.3))
HYPERVOLUME = 0.3 * 0.3 + 0.3 * 0.7 + 0.2 * 0.9


def view(name, *points, spent_s=1800.0, blocks=None, **more):
    """Trials of half an hour, one after another, with two workers each."""
    sweep = make_sweep(blocks=blocks).model_copy(update={"name": name})
    records = [
        record(number, measured(point, point), spent_s=spent_s, finished_at=spent_s * (number + 1))
        for number, point in enumerate(points or POINTS)
    ]
    return SweepView(
        **{"sweep": sweep, "records": records, "baselines": BASELINES, "importances": {}, **more}
    )


def objectives(**changes):
    """Those of `make_sweep`, the first one changed."""
    return {
        "objectives": {
            "mass": {"direction": "minimize", "reference": 1.0, **changes},
            "utility": {"direction": "maximize", "reference": 0.0},
        }
    }


def confirmed(members, seeds):
    """The n-th seed shifts the mass of all members by a hundredth of n."""
    metrics = [measured((mass, utility), (mass, utility)) for mass, utility in POINTS]
    return [
        Confirmation(
            f"t000{number}",
            1,
            seed,
            f"t000{number}",
            {**metrics[number], "test/mass": POINTS[number][0] + seed / 100},
        )
        for seed in seeds
        for number in members
    ]
