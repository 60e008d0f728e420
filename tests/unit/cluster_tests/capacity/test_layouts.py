import pytest
import yaml

from cluster.capacity.layouts import Cluster, demanding_trial, describe_lanes, require_layout
from cluster.capacity.model_shapes import KNOWN
from cluster.capacity.rank_memory import GIB, Lengths
from search_spaces.loading.loader import PACKAGED
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from tests.support.sweeps import finished_sweep

LENGTHS = Lengths(256, 60)


def sweep(workers=8, trial=None, **more):
    resources = {"workers_per_trial": workers, "gpus_per_worker": 1, "cpus_per_worker": 4, **more}
    defaults = {"optimizer": {"global_batch": 32, "micro_batch": 8}} | (trial or {})
    model = {"target": "a/model", "dtype": "bfloat16"}
    return finished_sweep.sweep(
        model=model, trial=defaults, resources=resources, space={"beliefs": {"choice": ["none", "token"]}}
    )


def found(workers=8, shape="llama-3.1-8b", gpus=64, gib=80, trial=None, **more):
    return require_layout(
        sweep(workers, trial, **more), KNOWN[shape], LENGTHS, Cluster(gpus, gib * GIB), "a.yaml"
    )


def test_nodes_have_gpus_and_cpus_for_them_and_a_last_one_with_the_rest():
    nodes = Cluster(20, 80 * GIB, 8).nodes(4)
    assert [node["GPU"] for node in nodes] == [8, 8, 4]
    assert nodes[2]["CPU"] == 16


def test_layout_fills_nodes_with_lanes():
    layout = found(workers=4, shape="llama-3.2-1b", gpus=16)
    assert list(layout.lanes) == [(0,) * 4, (0,) * 4, (1,) * 4, (1,) * 4]
    assert describe_lanes(layout.lanes) == "lanes 1-2 on node 0; lanes 3-4 on node 1"


def test_layout_respects_max_lanes_and_spans_nodes():
    assert len(found(workers=4, shape="llama-3.2-1b", max_lanes=3).lanes) == 3
    assert describe_lanes(found(workers=16, gpus=16).lanes) == "lane 1 on nodes 0-1"


def test_smallest_workers_fit_and_one_fewer_does_not():
    smallest = found().smallest_workers
    assert found(workers=smallest).memory.peak <= 80 * GIB
    with pytest.raises(UserError, match=rf"workers_per_trial to {smallest}\b"):
        found(workers=smallest - 1)


def test_more_workers_than_gpus_are_refused():
    with pytest.raises(UserError, match=r"Set resources.workers_per_trial to 4 or less") as caught:
        found(workers=8, gpus=4)
    assert (caught.value.file, caught.value.key, caught.value.value) == (
        "a.yaml",
        "resources.workers_per_trial",
        8,
    )


def test_refusal_names_a_smaller_micro_batch_and_checkpointing_where_they_are_enough():
    with pytest.raises(
        UserError, match=r"micro_batch to \d+; or trial.engine.activation_checkpointing to true"
    ) as caught:
        found(workers=4, gpus=4, gib=76, trial={"optimizer": {"global_batch": 256, "micro_batch": 64}})
    assert caught.value.allowed is None or "at least" in caught.value.allowed


def test_refused_suggestions_fit_when_they_are_taken():
    trial = {"optimizer": {"global_batch": 256, "micro_batch": 64}}
    with pytest.raises(UserError) as caught:
        found(workers=4, gpus=4, gib=76, trial=trial)
    micro = int(caught.value.remedy.partition("micro_batch to ")[2].partition(";")[0])
    assert found(
        workers=4, gpus=4, gib=76, trial={"optimizer": {"global_batch": 256, "micro_batch": micro}}
    ).lanes
    assert found(
        workers=4, gpus=4, gib=76, trial=trial | {"engine": {"activation_checkpointing": True}}
    ).lanes


def test_model_that_these_gpus_cannot_hold_is_refused_with_what_they_would_need():
    with pytest.raises(UserError, match=r"nothing on 8 of these GPUs.* leave \d+.* or more of them"):
        found(workers=8, gpus=8, shape="llama-3.1-70b")


def test_70b_fits_where_every_saving_is_taken():
    with pytest.raises(UserError, match=r"inference to lockstep.*workers_per_trial to (\d+)") as caught:
        found(
            workers=8, shape="llama-3.1-70b", trial={"optimizer": {"global_batch": 4096, "micro_batch": 64}}
        )
    workers = int(caught.value.remedy.rpartition(" ")[2])
    frugal = {
        "optimizer": {"micro_batch": 1},
        "engine": {"inference": "lockstep", "activation_checkpointing": True},
    }
    assert found(workers=workers, shape="llama-3.1-70b", trial=frugal).smallest_workers == workers


def test_demanding_trial_has_the_largest_of_every_choice():
    space = {
        "beliefs": {"choice": ["none", "token", "sequence"]},
        "retain.loss": {"choice": ["none", "nll", "kl"]},
        "forget.method": {"choice": ["ga", "npo"]},
        "sequence_belief.num_samples": {"int": [1, 5]},
        "optimizer.micro_batch": {"choice": [2, 16]},
    }
    trial = demanding_trial(finished_sweep.sweep(space=space))
    assert (trial.beliefs, trial.retain.loss, trial.forget.method) == ("token+sequence", "kl", "npo")
    assert (trial.sequence_belief.num_samples, trial.optimizer.micro_batch) == (5, 16)
    trial = demanding_trial(
        finished_sweep.sweep(space={"forget.method": {"choice": ["ga", "undial", "flat", "npo"]}})
    )
    assert trial.forget.method == "flat"


def test_demanding_trial_keeps_the_own_value_of_a_key_that_is_searched_under_a_condition():
    """Packaged sweeps search `activations` for RMU alone; no retain loss was counted for other methods."""
    condition = {"when": {"forget.method": "rmu"}}
    space = {
        "forget.method": {"choice": ["npo", "rmu"]},
        "retain.loss": {"choice": ["activations"], **condition},
        "optimizer.micro_batch": {"int": [1, 4], **condition},
    }
    trial = demanding_trial(
        finished_sweep.sweep(space=space, trial={"optimizer": {"micro_batch": 8, "global_batch": 32}})
    )
    assert (trial.retain.loss, trial.optimizer.micro_batch) == ("nll", 8)


@pytest.mark.parametrize("name", ["muse_news_llama2_7b", "muse_books_icl7b", "wmdp_zephyr_7b"])
def test_packaged_sweeps_on_text_are_planned_with_a_retain_loss(name):
    settings = yaml.safe_load((PACKAGED / f"{name}.yaml").read_text())
    assert demanding_trial(SweepSettings.model_validate(settings)).retain.loss == "nll"
