"""Trials with two objectives and nothing else, for tests of what is decided at rungs: `mass` falls, `utility`
rises, both in 0 to 1."""

from orchestrator.storage.trial_records import TrialRecord, trial_id
from search_spaces.settings.sweep_settings import SweepSettings


def make_sweep(**blocks) -> SweepSettings:
    objectives = {
        "mass": {"direction": "minimize", "reference": 1.0},
        "utility": {"direction": "maximize", "reference": 0.0},
    }
    return SweepSettings.model_validate(
        {
            "name": "little",
            "model": {"base": "scratch"},
            "data": {"benchmark": "closed_world"},
            "objectives": objectives,
            **blocks,
        }
    )


def trial(number, *points, status="running", params=None, **more) -> TrialRecord:
    """A trial with (mass, utility) at each of its rungs, the same on both parts."""
    rungs = [
        {
            f"{part}/{name}": value
            for part in ("validation", "test")
            for name, value in zip(("mass", "utility"), point, strict=True)
        }
        for point in points
    ]
    return TrialRecord(
        trial_id(number), number, status, params or {}, rungs[-1] if rungs else {}, rungs, **more
    )


def worth(quality):
    """A point that dominates all of lower quality, and has a hypervolume of its square."""
    return (1 - quality, quality)
