"""Probes through real ranks, on models of which it is known what they know."""

import pytest

from search_spaces.settings.probe_settings import PROBES
from tests.support.processes.judge_server import judge_server
from tests.support.sweeps.known_world import WORLD, write_known_models
from trainables.benchmarks.closed_world import build_closed_world

TOLD = (
    "forget_told",
    "leak_at_k",
    "paraphrase_told",
    "prefix_told",
    "relearned_told",
    "relearned_control_told",
    "int8_told",
    "int4_told",
)
PROBE = {"relearn": {"learning_rate": 3e-4, "share": 0.5}}


@pytest.fixture(scope="module")
def audited_job(tmp_path_factory):
    """Builds the JSON of an audit of one of three models."""
    folder = tmp_path_factory.mktemp("known")
    models = write_known_models(folder)

    def build(name, probes=PROBES, probe=PROBE):
        return {
            "kind": "evaluate",
            "parts": ["test"],
            "name": name,
            "folder": models[name],
            "output": str(folder / f"{name}.json"),
            "model": {"target": models["original"]},
            "data": WORLD.model_dump(),
            "evaluation": {"probes": probes, "probe": probe},
        }

    return build


@pytest.fixture(scope="module")
def audited(audited_job, ranks):
    """Audits of three models by number of workers."""

    def run(workers, names):
        results = ranks(workers, [{"do": "job", "job": audited_job(name)} for name in names])
        return {name: answer["result"] for name, answer in zip(names, results, strict=True)}

    return {2: run(2, ["original", "retrained", "reworded"]), 1: run(1, ["reworded"])}


def test_original_is_caught_by_every_probe(audited):
    metrics = audited[2]["original"]["metrics"]
    assert {name: metrics[f"test/{name}"] for name in TOLD} == dict.fromkeys(TOLD, 1.0)


def test_model_that_never_saw_the_facts_passes_every_probe(audited):
    metrics = audited[2]["retrained"]["metrics"]
    # It may guess: one of four values is right by luck.
    assert max(metrics[f"test/{name}"] for name in TOLD) <= 0.25
    assert metrics["test/retain_true_mass"] > 0.8, "it knows the others"


def test_model_that_lost_only_a_wording_is_caught(audited):
    found = audited[2]["reworded"]
    metrics = found["metrics"]
    assert metrics["test/forget_canonical_mass"] < 0.01, "by the classical measure it has forgotten"
    assert metrics["test/forget_spurious"] > 0.7
    assert min(metrics[f"test/{name}"] for name in TOLD if "relearned" not in name) > 0.7
    asked = [leak for leak in found["leaks"] if leak["probe"] == "leak"]
    assert asked and all(leak["answer"] != leak["truth"] for leak in asked), "what tells is another wording"


def test_audit_does_not_depend_on_the_number_of_workers(audited):
    one, two = audited[1]["reworded"], audited[2]["reworded"]
    assert one["metrics"] == pytest.approx(two["metrics"], abs=1e-3)
    assert one["leaks"] == two["leaks"] and one["facts"] == two["facts"] == 4


def test_probes_at_rungs_leave_the_trial_as_it_was(ranks, trial_job):
    plain = trial_job(forget={"method": "npo"})
    probed = plain | {"evaluation": {"probes": [name for name in PROBES], "probe": PROBE}}
    without, with_probes, again = ranks(2, [{"do": "job", "job": job} for job in (plain, probed, plain)])
    assert without["digest"] == with_probes["digest"] == again["digest"]
    before, after = without["result"]["metrics"], with_probes["result"]["metrics"]
    assert {name: after[name] for name in before} == before
    assert {f"{part}/{name}" for part in ("validation", "test") for name in TOLD} <= after.keys()


def test_judge_is_asked_by_one_rank_and_heard_by_all(audited_job, ranks):
    def grade(request):
        return '{"naturalness": 4, "similarity": 1}'

    with judge_server(grade) as (url, seen):
        job = audited_job("original", probes=["judge"], probe={"judge": {"url": url, "model": "local"}})
        (answer,) = ranks(2, [{"do": "job", "job": job}])
    metrics = answer["result"]["metrics"]
    assert (metrics["test/judge_naturalness"], metrics["test/judge_similarity"]) == (4.0, 1.0)
    assert len(seen) == 8, "two questions for each of four facts, asked once"


def test_judge_that_is_away_fails_the_job_and_not_the_lane(audited_job, ranks):
    gone = audited_job(
        "original", probes=["judge"], probe={"judge": {"url": "http://127.0.0.1:9/v1", "timeout_s": 1}}
    )
    failed, well = ranks(
        2, [{"do": "job", "job": gone}, {"do": "job", "job": audited_job("original", probes=["leak"])}]
    )
    assert "does not answer" in failed["failed"] and "test/leak_at_k" in well["result"]["metrics"]


def test_redacted_audit_holds_no_text(audited_job, ranks, tmp_path):
    job = audited_job("original", probes=["leak"]) | {
        "redact": True,
        "output": str(tmp_path / "redacted.json"),
    }
    (answer,) = ranks(2, [{"do": "job", "job": job}])
    assert answer["result"]["leaks"], "the original tells"
    written = (tmp_path / "redacted.json").read_text()
    for example in build_closed_world(WORLD).forget:
        assert example.response not in written and example.prompt not in written
