import json
from pathlib import Path

import pytest

from orchestrator.storage.baselines import read_baselines
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.sweep.session import ensure_baselines
from search_spaces.user_errors import UserError
from tests.support.local_lanes import LocalLanes, Observer, plan_of
from tests.support.sweeps.sweep_on_disk import measured, small_sweep
from trainables.events import Failed, Finished

WORLD = {
    "benchmark": "closed_world",
    "people": 6,
    "forget_people": 2,
    "attributes": 1,
    "values": 3,
    "phrasings": 2,
}


def sweep(model=None, **more):
    return small_sweep(**{"data": WORLD, "model": model or {"base": "scratch"}, **more})


def names(plan):
    return [job.name for job in plan.prepare], [job.name for job in plan.measure]


class BaselineLanes(LocalLanes):
    """Writes the folder or the file of each job when it is submitted; the job named `fail` ends as failed."""

    def __init__(self, fail=None):
        super().__init__(self._end)
        self.fail = fail

    def submit(self, job_name, job):
        super().submit(job_name, job)
        output = Path(job.output)
        if job.kind == "prepare":
            output.mkdir(parents=True)
        else:
            assert job.retrained is None or Path(job.retrained).is_file()
            output.write_text(json.dumps({"metrics": measured(0.5, 0.5)}))

    def _end(self, name, job):
        return Failed("out of memory") if name == self.fail else Finished()


def ensured(settings, root, lanes=None):
    """Returns: the sweep's folder, the lanes, and the stages that were shown."""
    folder, observer = SweepFolder(root, settings.name), Observer()
    lanes = lanes or BaselineLanes()
    folder.models.mkdir(parents=True, exist_ok=True)
    ensure_baselines(plan_of(settings, folder.models), lanes, folder, observer)
    return folder, lanes, observer.stages


def test_plan_from_scratch_prepares_and_measures_both_models(tmp_path):
    plan = plan_of(sweep(), tmp_path)
    assert names(plan) == (["retrained", "target"], ["retrained", "original"])
    assert len({plan.original.folder, plan.retrained.folder, plan.prepare[0].initial}) == 3
    assert plan.prepare[0].initial == plan.prepare[1].initial
    assert plan.measure[1].retrained == str(plan.retrained.measurement)
    assert plan.measure[0].retrained is None


def test_twin_of_the_retrained_model_differs_in_its_seeds_alone_and_is_measured_against_it(tmp_path):
    plan = plan_of(sweep(baselines={"instruction": None, "retrained_twin": True}), tmp_path)
    prepared, measured_models = names(plan)
    assert prepared == ["retrained", "target", "retrained_twin"]
    assert measured_models == ["retrained", "original", "retrained_twin"]
    retrained, _, twin = plan.prepare
    assert (twin.text, twin.model.prepare.seed) == ("retrained", 1)
    assert twin.model.scratch.seed == retrained.model.scratch.seed + 1
    seeded = {"prepare": retrained.model.prepare, "scratch": retrained.model.scratch}
    assert twin.model.model_copy(update=seeded) == retrained.model
    assert twin.output != retrained.output and twin.initial != retrained.initial
    assert plan.measure[2].retrained == str(plan.retrained.measurement)


def test_perplexity_is_measured_only_where_the_lane_holds_the_original_model(tmp_path):
    def fluency_by_model(fluency):
        baselines = {"instruction": "Forget it.", "retrained_twin": True}
        plan = plan_of(sweep(evaluation={"fluency": fluency}, baselines=baselines), tmp_path)
        return {job.name: job.evaluation.fluency for job in plan.measure}

    assert fluency_by_model("perplexity") == {
        "retrained": "none",
        "original": "perplexity",
        "prompted": "perplexity",
        "retrained_twin": "none",
    }
    assert set(fluency_by_model("gibberish").values()) == {"gibberish"}


@pytest.mark.parametrize("model", [{"target": "somewhere"}, {"base": "scratch", "retrained": "somewhere"}])
def test_twin_of_a_model_that_was_given_is_refused(model):
    with pytest.raises(ValueError, match="prepared alike"):
        sweep(model=model, baselines={"retrained_twin": True})


def test_plan_starts_nothing_and_is_the_same_each_time(tmp_path):
    assert plan_of(sweep(), tmp_path) == plan_of(sweep(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_plan_of_a_given_target_measures_it_and_has_no_retrained_model(tmp_path):
    plan = plan_of(sweep({"target": "/models/target"}), tmp_path)
    assert names(plan) == ([], ["original"])
    assert (plan.original.folder, plan.retrained) == ("/models/target", None)


def test_plan_prepares_only_what_is_not_given(tmp_path):
    plan = plan_of(sweep({"base": "org/base", "target": "/models/target"}), tmp_path)
    assert names(plan) == (["retrained"], ["retrained", "original"])
    assert plan.prepare[0].initial == "org/base"
    assert plan.original.folder == "/models/target"


def test_plan_leaves_out_what_exists(tmp_path):
    folder, _, _ = ensured(sweep(), tmp_path)
    assert names(plan_of(sweep(), folder.models)) == ([], [])


NOTHING, EVERYTHING = ([], []), (["retrained", "target"], ["retrained", "original"])


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"trial": {"epochs": 2, "optimizer": {"learning_rate": 0.1}}}, NOTHING),
        ({"name": "other", "search": {"trials": 50}}, NOTHING),
        ({"model": {"base": "scratch", "prepare": {"steps": 7}}}, EVERYTHING),
        ({"model": {"base": "scratch", "dtype": "bfloat16"}}, EVERYTHING),
        ({"model": {"base": "scratch", "scratch": {"layers": 2}}}, EVERYTHING),
        ({"data": {**WORLD, "seed": 1}}, EVERYTHING),
    ],
)
def test_models_are_shared_by_sweeps_exactly_when_they_would_be_the_same(tmp_path, changes, again):
    folder, _, _ = ensured(sweep(), tmp_path)
    assert names(plan_of(sweep(**changes), folder.models)) == again


@pytest.mark.parametrize(
    "changes", [{"dtype": "bfloat16"}, {"revision": "v2"}, {"retrained": "/models/other"}]
)
def test_given_model_is_measured_again_when_its_numbers_may_differ(tmp_path, changes):
    given = {"target": "/models/target", "retrained": "/models/retrained"}
    folder, _, _ = ensured(sweep(given), tmp_path)
    assert names(plan_of(sweep(given), folder.models)) == ([], [])
    assert "original" in names(plan_of(sweep(given | changes), folder.models))[1]


def test_measurement_in_other_metrics_is_made_anew_and_the_models_are_kept(tmp_path, monkeypatch):
    folder, _, _ = ensured(sweep(), tmp_path)
    monkeypatch.setattr("orchestrator.storage.baselines.MEASUREMENT_VERSION", 10**6)
    assert names(plan_of(sweep(), folder.models)) == ([], ["retrained", "original"])


def test_models_start_from_the_same_weights_whatever_their_training(tmp_path):
    plans = [plan_of(sweep({"base": "scratch", "prepare": {"steps": steps}}), tmp_path) for steps in (5, 6)]
    first, second = ({job.initial for job in plan.prepare} for plan in plans)
    assert first == second and len(first) == 1


def test_baselines_are_made_in_the_order_in_which_they_need_each_other(tmp_path):
    folder, lanes, stages = ensured(sweep(), tmp_path)
    # Both models are queued before the first job ends; the original is queued once the retrained is measured.
    assert [queued for _, queued in lanes.ended] == [2, 2, 3, 4]
    assert stages == [
        "preparing the retrained model",
        "preparing the target model",
        "measuring the retrained model",
        "measuring the original model",
    ]
    utility = {name: baseline.metrics()["test/utility"] for name, baseline in read_baselines(folder).items()}
    assert utility == {"original": 0.5, "retrained": 0.5}


def test_baselines_that_exist_are_noted_without_a_job(tmp_path):
    ensured(sweep(), tmp_path)
    folder, lanes, _ = ensured(sweep(name="second"), tmp_path)
    assert not lanes.jobs
    assert set(read_baselines(folder)) == {"original", "retrained"}


def test_failed_baseline_ends_with_its_reason_and_leaves_no_note(tmp_path):
    with pytest.raises(UserError, match="preparing the target model failed: out of memory"):
        ensured(sweep(), tmp_path, BaselineLanes(fail="preparing the target model"))
    assert read_baselines(SweepFolder(tmp_path, "small")) == {}


def test_plan_says_which_data_cannot_be_read(tmp_path):
    (tmp_path / "forget.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    data = {
        "benchmark": "local_files",
        "forget": str(tmp_path / "forget.jsonl"),
        "retain": str(tmp_path / "forget.jsonl"),
    }
    with pytest.raises(UserError, match=r"forget\.jsonl, line 2: not JSON"):
        plan_of(sweep(data=data, objectives={}), tmp_path)
