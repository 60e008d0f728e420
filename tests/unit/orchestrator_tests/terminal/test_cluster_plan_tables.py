from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cluster.capacity.layouts import Cluster
from cluster.capacity.rank_memory import GIB
from orchestrator import cli
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.terminal.cluster_plan_tables import ScaleOptions, lengths_of, measured_step_s
from orchestrator.terminal.plan_tables import show_plan
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_on_disk import small_sweep
from trainables.benchmarks.registry import load_benchmark

WORLD = {
    "benchmark": "closed_world",
    "people": 6,
    "forget_people": 2,
    "attributes": 2,
    "values": 3,
    "phrasings": 2,
}


def shown(tmp_path, options, **more):
    sweep = small_sweep(
        **{"data": WORLD, "resources": {"workers_per_trial": 2, "gpus_per_worker": 1}, **more}
    )
    console = Console(file=StringIO(), width=200)
    show_plan(sweep, "small.yaml", load_benchmark(sweep.data), tmp_path, console, options)
    return console.file.getvalue()


def on_gpus(**more):
    return ScaleOptions(Cluster(8, 80 * GIB, 4), **more)


def test_plan_on_described_gpus_shows_memory_lanes_time_and_disk(tmp_path):
    # 8 steps of 2 s: 16 s per trial; 6 trials on 4 lanes in 2 rounds; 6 x 16 s x 2 GPUs.
    text = shown(tmp_path, on_gpus(shape="1b", step_time_s=2.0))
    assert "model: Llama 3.2 1B, 1,235,814,400 parameters" in text
    assert "Adam moments" in text and "fits into 80 GiB" in text
    assert "lanes on 8 GPUs: 4 of 2 workers: lanes 1-2 on node 0; lanes 3-4 on node 1" in text
    assert "time at 2 s per step: 0.3 min per trial, 2 trials in a row: 0.0 h; 0.1 GPU-hours at work" in text
    assert "disk: 2 models of 4.6 GiB; a front of 20 members 92.1 GiB; together 101.3 GiB" in text


def test_plan_says_what_hosts_must_hold_and_what_is_not_counted(tmp_path):
    # Four ranks of two lanes on a node, each with 4.6 GiB of float32 weights and .55 GiB of its own.
    text = shown(tmp_path, on_gpus(shape="1b"))
    assert "host memory of a node when its lanes start: up to 21 GiB, 4 ranks that each read 4.6 GiB" in text
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    assert "offloads" in shown(tmp_path, on_gpus(), trial={"deepspeed": offload})
    assert "offloads" not in shown(tmp_path, on_gpus())


def test_plan_explains_what_zero3_is_set_to(tmp_path):
    assert "a gradient bucket of 500,000,000 elements (its usual size), 1,907 MiB" in shown(
        tmp_path, on_gpus(shape="1b")
    )
    adapters = shown(tmp_path, on_gpus(shape="1b"), trial={"lora": {"rank": 4, "modules": ["q_proj"]}})
    # Sixteen layers, each with two thin matrices of 4 x 2048.
    assert "a gradient bucket of 262,144 elements (all that is trained), 1 MiB" in adapters
    asked = shown(
        tmp_path,
        on_gpus(shape="1b"),
        trial={"deepspeed": {"zero_optimization": {"reduce_bucket_size": 1024}}},
    )
    assert "a gradient bucket of 1,024 elements (as trial.deepspeed says), 0 MiB" in asked


def test_plan_without_a_step_time_says_how_to_give_one(tmp_path):
    assert "2 trials in a row of 8 steps; give --step-time-s or --from-sweep for hours" in shown(
        tmp_path, on_gpus()
    )


def test_plan_for_a_sweep_on_cpus_says_that_it_plans_with_gpus(tmp_path):
    assert "planned with 1" in shown(tmp_path, on_gpus(), resources={"workers_per_trial": 2})


def test_plan_refuses_in_the_name_of_the_file(tmp_path):
    with pytest.raises(UserError, match=r"--model-shape 1b") as caught:
        shown(tmp_path, on_gpus(), model={"target": "org/unknown"})
    assert caught.value.file == "small.yaml"


def test_plan_here_shows_the_memory_of_a_worker_or_why_not(tmp_path):
    resources = {"workers_per_trial": 1, "gpus_per_worker": 0}
    assert "memory per worker on CPUs: about " in shown(tmp_path, ScaleOptions(), resources=resources)
    unknown = shown(tmp_path, ScaleOptions(), resources=resources, model={"target": "org/unknown"})
    assert "memory per worker: not known; give --model-shape" in unknown


def test_lengths_are_at_least_those_of_the_scratch_tokenizer():
    from trainables.data.encoding import encode
    from trainables.training.scratch_model import train_tokenizer

    sweep = small_sweep(data=WORLD)
    benchmark = load_benchmark(sweep.data)
    examples = [*benchmark.forget, *benchmark.retain]
    tokenizer = train_tokenizer(
        [text for example in benchmark.target_text for text in (example.prompt, example.response)], 2048
    )
    longest = max(len(encode(tokenizer, example.prompt, example.response)[0]) for example in examples)
    assert longest <= lengths_of(sweep, benchmark, None).sequence
    assert lengths_of(sweep, benchmark, 7).sequence == 7


def record(status, duration):
    return TrialRecord("t0000", 0, status, {}, {}, [], duration_s=duration)


def test_step_time_is_the_median_of_finished_trials():
    records = [
        record("finished", 10.0),
        record("finished", 20.0),
        record("finished", 90.0),
        record("failed", 1.0),
    ]
    assert measured_step_s(records, 10, "old") == 2.0
    with pytest.raises(UserError, match=r"Give --step-time-s"):
        measured_step_s([record("stopped", 3.0)], 10, "old")


def test_command_refuses_what_cannot_start_and_says_what_can(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    arguments = [
        "plan",
        "quickstart",
        "--storage",
        str(tmp_path),
        "--gpus",
        "64",
        "--gpu-memory-gib",
        "80",
        "--model-shape",
    ]
    refused = CliRunner().invoke(cli.app, [*arguments, "8b"])
    assert refused.exit_code == 2 and "Set resources.workers_per_trial to" in refused.stderr
    planned = CliRunner().invoke(
        cli.app, [*arguments, "8b", "--set", "resources.workers_per_trial=8", "--set", "model.dtype=bfloat16"]
    )
    assert planned.exit_code == 0, planned.output
    assert "lanes on 64 GPUs: 8 of 8 workers" in planned.stdout
