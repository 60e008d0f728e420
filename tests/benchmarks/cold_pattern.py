"""The pattern that Ray's documentation recommends for tuning training: a Tune function that makes a
TorchTrainer for every trial.

Implemented as fairly as can be: the same trial core, the same DeepSpeed start without its operator builds, no
more Ray Train files than it writes by itself, measurements of the original and the retrained model cached as
in a sweep. What differs is that every trial starts its own worker group.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import train, tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback


def train_loop(config: dict[str, Any]) -> None:
    """One trial on every rank of a fresh worker group."""
    import torch

    from trainables.engine.deepspeed_setup import start_deepspeed
    from trainables.jobs import JOB
    from trainables.worker.job_runner import JobRunner

    torch.set_num_threads(1)
    start_deepspeed()
    result = JobRunner().run(JOB.validate_python(config["job"]), lambda event: None)
    train.report({"seconds": json.dumps(result["seconds"]), "metrics": json.dumps(result["metrics"])})


def tune_function(config: dict[str, Any]) -> None:
    """What Tune runs for each trial: a driver of a worker group of its own."""
    began = time.time()
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": config["job"]},
        scaling_config=ScalingConfig(num_workers=config["workers"], resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(
            name=f"cold-{config['place']}",
            storage_path=config["storage"],
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
        ),
    )
    trainer.fit()
    with Path(config["storage"], f"times-{config['place']}.json").open("w") as file:
        json.dump({"began": began, "ended": time.time()}, file)


def run_cold(jobs: Sequence[Mapping[str, Any]], workers: int, storage: Path) -> dict[str, Any]:
    """Run jobs one after another.

    Returns:
        `wall_s` from the first trial's start to the last one's end, and `trials`: seconds by phase and
        metrics of each.
    """
    storage.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    tuner = tune.Tuner(
        # The function itself holds no CPU: its workers do.
        tune.with_resources(tune_function, {"CPU": 0, "memory": 1e6}),
        param_space={
            "place": tune.grid_search(list(range(len(jobs)))),
            "job": tune.sample_from(lambda spec: jobs[spec.config["place"]]),
            "workers": workers,
            "storage": str(storage),
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(name="cold", storage_path=str(storage), verbose=0),
    )
    results = tuner.fit()
    wall_s = time.perf_counter() - began
    assert not results.errors, results.errors
    told = sorted((result.config["place"], result.metrics) for result in results)
    trials = [{"seconds": json.loads(m["seconds"]), "metrics": json.loads(m["metrics"])} for _, m in told]
    assert len(trials) == len(jobs) and ray.is_initialized()
    return {"wall_s": wall_s, "trials": trials}
