"""Probes through real ranks, on models of which it is known what they know."""

import pytest

from search_spaces.probe_settings import PROBES
from tests.integration.known_world import WORLD, write_known_models

TOLD = ("forget_told", "leak_at_k", "paraphrase_told", "prefix_told", "relearned_told", "relearned_control_told", "int8_told", "int4_told")
PROBE = {"relearn": {"learning_rate": 3e-4, "share": 0.5}}


@pytest.fixture(scope="module")
def audited(tmp_path_factory, ranks):
    """Audits of three models by number of workers."""
    folder = tmp_path_factory.mktemp("known")
    models = write_known_models(folder)

    def run(workers, names):
        jobs = [
            {
                "kind": "audit",
                "name": name,
                "folder": models[name],
                "output": str(folder / f"{name}-{workers}.json"),
                "model": {"target": models["original"]},
                "data": WORLD.model_dump(),
                "evaluation": {"probes": PROBES, "probe": PROBE},
            }
            for name in names
        ]
        results = ranks(workers, [{"do": "job", "job": job} for job in jobs])
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
