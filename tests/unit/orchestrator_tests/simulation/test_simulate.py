import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.simulation.recorded_range import check_covered
from orchestrator.simulation.recording import packaged_recording
from orchestrator.simulation.simulate import simulate
from search_spaces.loading.loader import load_sweep
from search_spaces.user_errors import UserError

FEW = ["search.enqueue=[]", "search.trials=8", "search.sampler=random"]


def refusal(*overrides, name="quickstart"):
    with pytest.raises(UserError) as caught:
        check_covered(load_sweep(Path(name), overrides), packaged_recording(), name)
    return str(caught.value)


def test_the_quickstart_is_covered():
    check_covered(load_sweep(Path("quickstart")), packaged_recording(), "quickstart")


def test_other_benchmarks_are_refused():
    assert "data.benchmark: only the closed world can be simulated" in refusal(name="tofu_scratch")


def test_a_key_that_was_not_recorded_is_refused():
    said = refusal("space.forget.npo.beta={uniform: [0.1, 1.0], when: {forget.method: npo}}")
    assert "space.forget.npo.beta: was not recorded" in said
    assert "--set space.forget.npo.beta=null" in said


@pytest.mark.parametrize("domain", ["{log_uniform: [1.0e-5, 2.0e-3]}", "{uniform: [1.0e-4, 1.0e-2]}"])
def test_a_domain_beyond_the_recorded_one_is_refused(domain):
    said = refusal("search.enqueue=[]", f"space.optimizer.learning_rate={domain}")
    assert "space.optimizer.learning_rate: goes beyond what was recorded" in said


def test_a_trial_unlike_the_recorded_ones_is_refused():
    assert "trial.epochs: differs from the recorded trials (given: 48). Allowed: 24" in refusal(
        "trial.epochs=48"
    )


def test_a_fixed_value_counts_like_a_searched_one():
    fixed = ["search.enqueue=[]", "space.retain.weight=null"]
    assert "trial.retain.weight: was not recorded" in refusal(*fixed, "trial.retain.weight=9")
    check_covered(
        load_sweep(Path("quickstart"), [*fixed, "trial.retain.weight=2"]), packaged_recording(), "quickstart"
    )


@pytest.mark.parametrize("block", ["constraints", "early_stopping.floors"])
def test_a_metric_that_is_not_simulated_is_refused(block):
    assert f"{block}.retain_posterior: is not simulated" in refusal(f"{block}.retain_posterior.at_least=0.5")


def test_a_simulated_sweep_is_reported_and_stored_as_an_ordinary_one(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    simulate(load_sweep(Path("quickstart"), FEW), "quickstart", tmp_path, 2, console)
    said = console.file.getvalue()
    assert "Pareto front on the test part, hypervolume" in said
    assert "worker-hours" in said and "ms of the driver per trial" in said
    storage = ["--storage", str(tmp_path)]
    status = CliRunner().invoke(app, ["status", "quickstart-simulated", *storage])
    assert "8 of 8 trials done" in status.output
    front = CliRunner().invoke(app, ["front", "quickstart-simulated", "--csv", *storage])
    assert front.exit_code == 0 and "original" in front.output


def test_a_real_sweep_of_that_name_is_left_alone(tmp_path):
    sweep = load_sweep(Path("quickstart"), FEW)
    simulated = simulate(sweep, "quickstart", tmp_path, 2, Console(file=io.StringIO()))
    assert simulated.folder.name != sweep.name
