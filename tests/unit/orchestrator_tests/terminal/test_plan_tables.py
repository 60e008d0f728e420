import re
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.terminal import plan_tables
from orchestrator.terminal.plan_tables import describe, sample_randomly, show_plan
from search_spaces.settings.space import Domain, active
from search_spaces.user_errors import UserError
from tests.support.sweeps import finished_sweep
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


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(plan_tables.os, "cpu_count", lambda: 8)


def shown(root, **more):
    sweep = small_sweep(**{"data": WORLD, **more})
    console = Console(file=StringIO(), width=200)
    show_plan(sweep, "small.yaml", load_benchmark(sweep.data), root, console)
    return console.file.getvalue()


def test_plan_shows_every_key_with_domain_and_condition(tmp_path):
    text = shown(tmp_path)
    assert "search space of small: 6 trials by random" in text
    rows = {cells[1].strip(): cells for line in text.splitlines() if len(cells := line.split("│")) == 5}
    assert rows.keys() >= set(small_sweep().space)
    assert rows["token_belief.top_k"][2].strip() == "log_int [1, 64]"
    assert rows["token_belief.top_k"][3].strip() == "beliefs in token"
    assert rows["forget.method"][2].strip() == "choice ['graddiff', 'npo', 'wga']"


def test_plan_shows_sampled_trials(tmp_path):
    text = shown(tmp_path)
    for number in range(plan_tables.EXAMPLES):
        assert f"  {sample_randomly(small_sweep(), number)}\n" in text


def test_plan_counts_examples_steps_and_lanes(tmp_path):
    # 2 people x 2 attributes to forget, 1 step per epoch, 8 epochs; 4 lanes of 2 cores run 6 trials in 2
    # rounds.
    text = shown(tmp_path)
    assert "lanes here: 4 of 2 workers, 1 CPU each\n" in text
    assert "data: 4 forget and 224 retain examples\n" in text
    assert "a trial: 8 steps of 4 forget examples, 4 evaluations\n" in text
    assert "estimate: 48 trial steps, 16 in a row; times follow from the first trial\n" in text


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        (
            {"epochs": 3, "optimizer": {"global_batch": 3}},
            "a trial: 6 steps of 3 forget examples, 1 evaluations",
        ),
        ({"epochs": 3, "steps": 2, "rungs": 9}, "a trial: 2 steps of 4 forget examples, 2 evaluations"),
    ],
)
def test_plan_counts_the_steps_that_a_trial_will_take(tmp_path, trial, expected):
    assert expected in shown(tmp_path, trial=trial)


def test_plan_says_what_has_to_be_prepared_and_starts_nothing(tmp_path):
    text = shown(tmp_path, model={"base": "scratch", "prepare": {"steps": 50}})
    assert "to prepare: retrained, target (100 steps in all)\n" in text
    assert "to measure: retrained, original\n" in text
    assert list(tmp_path.iterdir()) == []


def test_plan_says_that_nothing_has_to_be_prepared(tmp_path):
    assert "to prepare: nothing\n" in shown(tmp_path, model={"target": "/models/target"})


def test_plan_on_gpus_says_how_many_it_needs_on_whatever_machine(tmp_path):
    resources = {"workers_per_trial": 2, "gpus_per_worker": 1, "max_lanes": 4}
    assert "lanes: 4 of 2 workers with a GPU each; needs 8 GPUs" in shown(tmp_path, resources=resources)


def test_plan_refuses_lanes_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"Set resources.workers_per_trial to 8 or less") as caught:
        shown(tmp_path, resources={"workers_per_trial": 9})
    assert caught.value.file == "small.yaml"


def test_random_samples_stay_inside_the_domains_and_follow_their_conditions():
    sweep = finished_sweep.sweep()
    for seed in range(50):
        params = sample_randomly(sweep, seed)
        assert all(sweep.space[key].contains(value) for key, value in params.items()), params
        assert set(params) == {key for key in sweep.space if active(key, sweep.space, params, sweep.trial)}


def test_random_samples_are_the_same_for_the_same_seed():
    assert (
        sample_randomly(small_sweep(), 3)
        == sample_randomly(small_sweep(), 3)
        != sample_randomly(small_sweep(), 4)
    )


def test_random_samples_use_the_domains_own_scale():
    rates = [sample_randomly(small_sweep(), seed)["optimizer.learning_rate"] for seed in range(200)]
    # Half of log-uniform draws lie under the geometric mean of the bounds; of uniform draws only a fifth
    # would.
    assert 70 < sum(rate < (1e-4 * 2e-3) ** 0.5 for rate in rates) < 130


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ({"choice": ["npo", 3]}, "choice ['npo', 3]"),
        ({"uniform": [0.5, 2]}, "uniform [0.5, 2]"),
        ({"log_uniform": [1e-5, 1]}, "log_uniform [1e-05, 1]"),
        ({"int": [1, 9]}, "int [1, 9]"),
    ],
)
def test_describe_reads_like_the_sweep_file(domain, expected):
    assert describe(Domain.model_validate(domain)) == expected


def test_plan_has_no_markup_left_in_it(tmp_path):
    assert not re.search(r"\[/?(bold|green|red)", shown(tmp_path))
