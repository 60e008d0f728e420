import json
import pickle
import subprocess
import sys

import pytest
from pydantic import ValidationError

from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import TrialSettings
from trainables.events import RungDecision
from trainables.jobs import JOB, EvaluateJob, PrepareJob, TrialJob

MODEL = ModelSettings(base="scratch")
JOBS = [
    PrepareJob(name="target", model=MODEL, text="target", initial="/m/initial", output="/m/target"),
    EvaluateJob(
        name="original",
        model=MODEL,
        folder="/m/target",
        output="/m/original.json",
        retrained="/m/retrained.json",
    ),
    TrialJob(
        trial_id="t0007",
        model=MODEL,
        folder="/m/target",
        trial=TrialSettings.model_validate(
            {"forget": {"method": "wga", "wga": {"alpha": 0.5}}, "beliefs": "token+sequence"}
        ),
        weights="/s/trials/t0007/weights",
        stop_at_rung=2,
    ),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.kind)
def test_job_survives_json(job):
    read = JOB.validate_python(json.loads(json.dumps(job.model_dump(mode="json"))))
    assert read == job and type(read) is type(job)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.kind)
def test_job_refuses_keys_that_it_does_not_know(job):
    with pytest.raises(ValidationError, match="wieghts"):
        JOB.validate_python(job.model_dump() | {"wieghts": "/m"})


def test_job_of_an_unknown_kind_is_refused_with_the_kinds_that_exist():
    with pytest.raises(ValidationError, match=r"'prepare', 'evaluate', 'trial', 'dynamics', 'benchmark'"):
        JOB.validate_python({"kind": "export"})


def test_trial_cannot_end_at_a_rung_before_the_first():
    with pytest.raises(ValidationError, match="stop_at_rung"):
        TrialJob(model=MODEL, folder="/m/target", stop_at_rung=0)


def test_default_decision_lets_a_trial_go_on_and_keeps_nothing():
    assert RungDecision() == RungDecision(go_on=True, keep=False, reason="")
    assert pickle.loads(pickle.dumps(RungDecision(keep=True))) == RungDecision(keep=True)


def test_jobs_are_made_without_torch_or_ray():
    heavy = "{'torch', 'ray', 'transformers'} & sys.modules.keys()"
    script = f"import sys, trainables.jobs; sys.exit(', '.join({heavy}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
