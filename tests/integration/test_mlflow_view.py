"""A real sweep against a real MLflow server, and what a person sees there."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest

from tests.integration.browser import CHROMIUM, open_browser
from tests.integration.launch import lethe
from tests.integration.mlflow_server import mlflow_server
from tests.integration.small_sweeps import SWEEP, front_of, write_sweep

TRIALS = 4
CARDS = "[...document.querySelectorAll('[data-testid=experiment-view-compare-runs-chart-area] .js-plotly-plot')]"


@pytest.fixture(scope="module")
def seen(finished, tmp_path_factory):
    """A sweep that ran against a server which is still there; the models of another sweep serve it."""
    _, storage, _ = finished
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder) as uri:
        file = write_sweep(folder, name="viewed", search={**SWEEP["search"], "trials": TRIALS})
        arguments = ("run", str(file), "--tracking-uri", uri)
        done = lethe(*arguments, storage=storage)
        client = mlflow.MlflowClient(uri)
        yield SimpleNamespace(uri=uri, storage=storage, arguments=arguments, lines=done.stdout.splitlines(), client=client)


def address(seen) -> str:
    (line,) = [line for line in seen.lines if line.startswith("MLflow: ")]
    return line.removeprefix("MLflow: ").partition(" ")[0]


def experiment(seen):
    return seen.client.get_experiment_by_name("lethe")


def runs(seen) -> dict:
    return {run.info.run_name: run for run in seen.client.search_runs([experiment(seen).experiment_id])}


def test_sweep_writes_its_view_and_prints_where_it_is(seen):
    (key,) = [key for key in experiment(seen).tags if key.startswith("mlflow.sharedViewState.")]
    assert json.loads(experiment(seen).tags[key])["name"] == "viewed"
    name = key.removeprefix("mlflow.sharedViewState.")
    page = f"/#/experiments/{experiment(seen).experiment_id}/runs?viewStateShareKey={name}&compareRunsMode=CHART"
    assert address(seen) == f"{seen.uri}{page}"


def test_members_of_the_front_are_tagged_and_described(seen):
    members = {member["trial_id"] for member in front_of(seen.storage, "viewed")["front"]}
    found = runs(seen)
    assert len(found) == 1 + TRIALS
    assert {name for name, run in found.items() if run.data.tags.get("pareto.front") == "true"} == members
    assert all(f"| {name}" in found["viewed"].data.tags["mlflow.note.content"] for name in members)


def test_parent_lists_the_data_as_inputs(seen):
    parent = seen.client.get_run(runs(seen)["viewed"].info.run_id)
    contexts = {one.dataset.name: [tag.value for tag in one.tags] for one in parent.inputs.dataset_inputs}
    assert contexts == {"closed_world-forget": ["forget"], "closed_world-retain": ["retain"]}
    assert all(json.loads(one.dataset.profile)["num_rows"] > 0 for one in parent.inputs.dataset_inputs)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_saved_view_opens_on_the_pareto_scatter_and_parallel_coordinates(seen, tmp_path):
    with open_browser(tmp_path / "profile") as page:
        page.open(address(seen))
        page.wait(f"{CARDS}.some(card => card.querySelector('.scatterlayer .trace'))")
        page.wait(
            f"{CARDS}.length > 0 && document.querySelectorAll('[data-testid=experiment-view-compare-runs-chart-area] canvas').length > 0"
        )
        area = page.evaluate("document.querySelector('[data-testid=experiment-view-compare-runs-chart-area]').innerText")
        points = page.evaluate(f"{CARDS}.flatMap(card => [...card.querySelectorAll('.scatterlayer .points path')]).length")
        page.screenshot(Path(os.environ.get("LETHE_SCREENSHOTS", tmp_path)) / "mlflow.png")
    assert "Pareto scatter" in area and "test/forget_true_mass vs. test/utility" in area
    assert area.index("Pareto scatter") < area.index("Parallel coordinates: settings and objectives") < area.index("Model metrics")
    measured = [run for run in runs(seen).values() if "test/utility" in run.data.metrics]
    assert points == len(measured) > 0
    assert page.errors == []


def test_run_again_writes_the_same_view_and_no_second_one(seen):
    before = set(experiment(seen).tags)
    again = lethe(*seen.arguments, storage=seen.storage)
    assert address(SimpleNamespace(lines=again.stdout.splitlines())) == address(seen)
    assert set(experiment(seen).tags) == before
    assert len(runs(seen)) == 1 + TRIALS
