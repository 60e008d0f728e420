import pickle

import pytest
from ray.tune.search import Searcher

from orchestrator.search.study import Study
from orchestrator.sweep.ray_tune import StudySearcher
from search_spaces.settings.sweep_settings import SweepSettings


def make_study(folder):
    sweep = {
        "name": "little",
        "model": {"base": "scratch"},
        "data": {"benchmark": "closed_world"},
        "space": {"optimizer.learning_rate": {"log_uniform": [1e-6, 1e-4]}},
        "objectives": {"mass": {"direction": "minimize", "reference": 1.0}},
        "search": {"trials": 2},
    }
    return Study.open(folder / "study.journal", SweepSettings.model_validate(sweep))


def test_searcher_suggests_the_trials_of_the_study_until_there_are_none(tmp_path):
    study = make_study(tmp_path)
    searcher = StudySearcher(study, job_of=lambda proposed: {"job": f"run {proposed.trial_id}"})
    configs = [searcher.suggest(f"tune_{index}") for index in range(3)]
    for config, record in zip(configs[:2], study.records(), strict=True):
        assert config == {
            "trial_id": record.trial_id,
            "number": record.number,
            "params": record.params,
            "job": f"run {record.trial_id}",
        }
    assert configs[2] == Searcher.FINISHED


def test_searcher_starts_no_trial_once_the_sweep_is_ending(tmp_path):
    study, reasons = make_study(tmp_path), []
    searcher = StudySearcher(study, is_ending=lambda: bool(reasons))
    searcher.suggest("tune_0")
    reasons.append("a budget is used up")
    assert searcher.suggest("tune_1") == Searcher.FINISHED
    assert len(study.records()) == 1


def test_searcher_writes_no_results_to_the_study(tmp_path):
    study = make_study(tmp_path)
    searcher = StudySearcher(study)
    searcher.suggest("tune_0")
    searcher.on_trial_result("tune_0", {})
    searcher.on_trial_complete("tune_0", None, error=True)
    assert study.records()[0].status == "running"


def test_searcher_is_saved_without_its_study(tmp_path):
    searcher = StudySearcher(make_study(tmp_path))
    searcher.save_to_dir(str(tmp_path))
    restored = pickle.loads(pickle.dumps(searcher))
    with pytest.raises(RuntimeError, match="build a new one from the sweep's journal"):
        restored.suggest("tune_0")
