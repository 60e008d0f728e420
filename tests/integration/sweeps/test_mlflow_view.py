"""A sweep in a real MLflow server, and what a person sees there."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.processes.browser import CHROMIUM, open_browser
from tests.support.processes.launch import lethe
from tests.support.sweeps.small_sweeps import SWEEP, front_of

TRIALS = SWEEP["search"]["trials"]
CARDS = (
    "[...document.querySelectorAll('[data-testid=experiment-view-compare-runs-chart-area] .js-plotly-plot')]"
)


def address(viewed) -> str:
    (line,) = [line for line in viewed.done.stdout.splitlines() if line.startswith("MLflow: ")]
    return line.removeprefix("MLflow: ").partition(" ")[0]


def experiment(viewed):
    return viewed.client.get_experiment_by_name("lethe")


def runs(viewed) -> dict:
    return {run.info.run_name: run for run in viewed.client.search_runs([experiment(viewed).experiment_id])}


def test_sweep_writes_its_view_and_prints_where_it_is(viewed):
    (key,) = [key for key in experiment(viewed).tags if key.startswith("mlflow.sharedViewState.")]
    assert json.loads(experiment(viewed).tags[key])["name"] == "viewed"
    name = key.removeprefix("mlflow.sharedViewState.")
    place = experiment(viewed).experiment_id
    page = f"/#/experiments/{place}/runs?viewStateShareKey={name}&compareRunsMode=CHART"
    assert address(viewed) == f"{viewed.uri}{page}"


def test_members_of_the_front_are_tagged_and_described(viewed):
    members = {member["trial_id"] for member in front_of(viewed.storage, "viewed")["front"]}
    found = runs(viewed)
    assert len(found) == 1 + TRIALS
    assert {name for name, run in found.items() if run.data.tags.get("pareto.front") == "true"} == members
    assert all(f"| {name}" in found["viewed"].data.tags["mlflow.note.content"] for name in members)


def test_parent_lists_the_data_as_inputs(viewed):
    parent = viewed.client.get_run(runs(viewed)["viewed"].info.run_id)
    contexts = {one.dataset.name: [tag.value for tag in one.tags] for one in parent.inputs.dataset_inputs}
    assert contexts == {"closed_world-forget": ["forget"], "closed_world-retain": ["retain"]}
    assert all(json.loads(one.dataset.profile)["num_rows"] > 0 for one in parent.inputs.dataset_inputs)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_saved_view_opens_on_the_pareto_scatter_and_parallel_coordinates(viewed, tmp_path):
    with open_browser(tmp_path / "profile") as page:
        page.open(address(viewed))
        page.wait(f"{CARDS}.some(card => card.querySelector('.scatterlayer .trace'))")
        page.wait(
            f"{CARDS}.length > 0 &&"
            " document.querySelectorAll('[data-testid=experiment-view-compare-runs-chart-area]"
            " canvas').length > 0"
        )
        area = page.evaluate(
            "document.querySelector('[data-testid=experiment-view-compare-runs-chart-area]').innerText"
        )
        points = page.evaluate(
            f"{CARDS}.flatMap(card => [...card.querySelectorAll('.scatterlayer .points path')]).length"
        )
        page.screenshot(Path(os.environ.get("LETHE_SCREENSHOTS", tmp_path)) / "mlflow.png")
    assert "Pareto scatter" in area and "test/forget_true_mass vs. test/utility" in area
    assert (
        area.index("Pareto scatter")
        < area.index("Parallel coordinates: settings and objectives")
        < area.index("Model metrics")
    )
    measured = [run for run in runs(viewed).values() if "test/utility" in run.data.metrics]
    assert points == len(measured) > 0
    assert page.errors == []


def test_run_again_writes_the_same_view_and_no_second_one(viewed):
    before = set(experiment(viewed).tags)
    again = lethe(*viewed.arguments, storage=viewed.storage)
    assert address(SimpleNamespace(done=again)) == address(viewed)
    assert set(experiment(viewed).tags) == before
    assert len(runs(viewed)) == 1 + TRIALS
