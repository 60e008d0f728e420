"""A small sweep on disk as a driver leaves it in mid-run: real study, baselines, logs and weights, made up in
closed form."""

from dataclasses import replace
from functools import cache

from pydantic import TypeAdapter

from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.settings.data_settings import DataSettings
from search_spaces.settings.sweep_settings import SweepSettings
from tests.support.sweeps import finished_sweep
from trainables.benchmarks.registry import load_benchmark
from trainables.durable_files import write_json

# Forget mass (down is better) and utility (up is better) of the ended trials; None has failed. t0002 is
# dominated by t0001.
POINTS = ((0.8, 0.9), (0.5, 0.7), (0.6, 0.6), None, (0.2, 0.3))
FRONT = ["t0004", "t0001", "t0000"]
HYPERVOLUME = 0.3 * 0.3 + 0.3 * 0.7 + 0.2 * 0.9
REASON = "loss is NaN at step 12 [forget] in [/tmp/x]"
BASELINES = {"original": (0.95, 0.98), "retrained": (0.05, 0.97)}


def measured(mass: float, utility: float) -> dict[str, float]:
    return {
        f"{part}/{name}": value
        for part in ("validation", "test")
        for name, value in (("forget_true_mass", mass), ("utility", utility))
    }


def small_sweep(**more) -> SweepSettings:
    """Without the prompted model, of which `test_prompted.py` is, and on a world that is built in no time."""
    defaults = {
        "data": {"benchmark": "closed_world", "people": 4, "forget_people": 2},
        "name": "small",
        "search": {"trials": 6, "sampler": "random"},
        "baselines": {"instruction": None},
    }
    return finished_sweep.sweep(**{**defaults, **more})


def begin(root, sweep=None):
    """A sweep without trials. Returns: its folder, settings and study, open for writing."""
    from orchestrator.search.study import Study

    sweep = sweep or small_sweep()
    folder = SweepFolder(root, sweep.name)
    folder.create(sweep, "small.yaml")
    return folder, sweep, Study.open(folder.journal, sweep)


def store(root, sweep=None):
    """Five ended trials and one that runs. Returns: its folder, settings and study, open for writing."""
    folder, sweep, study = begin(root, sweep)
    for number, point in enumerate(POINTS):
        asked = study.ask()
        assert asked.number == number
        (folder.weights(asked.trial_id) / "rung1").mkdir(parents=True)
        folder.trial_log(asked.trial_id).write_text(f"2026-01-01 00:00:00 log of {asked.trial_id}\n")
        if point is None:
            study.fail(number, REASON)
        else:
            study.tell_rung(number, 1, measured(*point))
            study.finish(number)
    study.tell_rung(study.ask().number, 1, measured(0.9, 0.9))
    add_baselines(folder)
    return folder, sweep, study


def add_baselines(folder: SweepFolder) -> None:
    entries = {}
    for name, point in BASELINES.items():
        model, measurement = folder.models / f"{name}-0123", folder.models / f"measured-{name}-0123.json"
        model.mkdir(parents=True, exist_ok=True)
        (model / "weights.bin").write_bytes(b"0" * 1024)
        write_json(measurement, {"metrics": measured(*point), "items": {}})
        entries[name] = {"folder": str(model), "measurement": str(measurement)}
    write_json(folder.baselines, entries)


def benchmark_of(sweep):
    """The sweep's data set under a digest that tests know."""
    return replace(_loaded(sweep.data.model_dump_json()), digest="digest")


@cache
def _loaded(data):
    return load_benchmark(TypeAdapter(DataSettings).validate_json(data))
