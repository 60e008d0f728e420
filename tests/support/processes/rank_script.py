"""One rank of the integration tests: runs the steps of each request on one warm runner, as a lane does.

Reads `request0.json`, `request1.json` ... in a folder, writes the results as `answer0.json` ..., and ends
when there is a file `end` and no other request.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from trainables.durable_files import write_json
from trainables.engine.deepspeed_setup import start_deepspeed
from trainables.events import TrialFailedError
from trainables.generation.sequence_beliefs import sample_beliefs
from trainables.jobs import JOB
from trainables.run_job import leave
from trainables.training.trial import pack_batches, train_step
from trainables.training.trial_state import TrialState
from trainables.worker.job_runner import JobRunner
from trainables.worker.model_measurement import measure, reference_logp


def run_step(runner: JobRunner, step: dict) -> dict:
    """Run one step: a job to its end, or a part of a trial that a test compares between numbers of ranks."""
    job = JOB.validate_python(step["job"])
    if step["do"] == "job":
        events: list[dict] = []
        try:
            outcome = runner.run(job, lambda event: events.append(asdict(event)))
        except TrialFailedError as error:
            return {"failed": str(error)}
        result = {key: value for key, value in outcome.result.items() if key != "items"}
        return {
            "result": {"status": outcome.status} | result,
            "events": events,
            "digest": runner._engine.digest(),
        }
    engine = runner.engine(job.folder, job.model, job.trial)
    data = runner.data(job.data, engine)
    trial = job.trial
    engine.reset(trial)
    if step["do"] == "memory":
        model_bytes = sum(p.ds_numel * p.ds_tensor.element_size() for p in engine._parameters.values())
        return {"resident": engine.gather([engine.resident_parameter_bytes()]), "model": model_bytes}
    if step["do"] == "save":
        engine.save(Path(step["folder"]))
        return {"digest": engine.digest()}
    beliefs = sample_beliefs(
        engine,
        data.forget,
        trial.sequence_belief,
        trial.engine,
        seed=trial.seed,
        refresh=0,
        with_reference=True,
    )
    if step["do"] == "beliefs":
        ids = {name: [belief.encoded.ids for belief in group] for name, group in beliefs.items()}
        return {"beliefs": ids}
    assert step["do"] == "fixed_beliefs"
    state = TrialState(beliefs=beliefs if trial.sequence_beliefs else None)
    packed_batches = pack_batches(engine, trial, data, reference_logp(engine, data, trial.engine), state)
    results = [
        train_step(engine, packed_batches, number, trial.optimizer.learning_rate)
        for number in range(step["steps"])
    ]
    metrics = measure(engine, data, trial, ("validation",), job.evaluation).metrics
    return {
        "losses": [result.loss for result in results],
        "norms": [result.gradient_norm for result in results],
        "metrics": dict(metrics),
    }


def next_request(folder: Path, number: int, tests: int) -> list[dict] | None:
    """Wait for a request and return it; None if no more will come, also because the tests have died."""
    path = folder / f"request{number}.json"
    while not path.exists():
        if (folder / "end").exists() or not Path(f"/proc/{tests}").exists():
            return None
        time.sleep(0.01)
    return json.loads(path.read_text())


def serve(folder: Path, tests: int) -> None:
    """Answer requests until the tests, a process, want no more. Ranks: all."""
    torch.set_num_threads(1)
    start_deepspeed()
    runner, number = JobRunner(), 0
    while (steps := next_request(folder, number, tests)) is not None:
        results = [run_step(runner, step) for step in steps]
        if dist.get_rank() == 0:
            write_json(folder / f"answer{number}.json", results)
        number += 1
    leave()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(os.environ["LETHE_TESTS_PID"]))
