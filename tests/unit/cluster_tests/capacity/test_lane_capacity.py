import pytest

from cluster.capacity.lane_capacity import Capacity, capacity_of, layout, require_lanes
from search_spaces.settings.sweep_settings import ResourceSettings
from search_spaces.user_errors import UserError


def resources(workers=2, cpus=1.0, gpus=0, max_lanes=None):
    return ResourceSettings(
        workers_per_trial=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, max_lanes=max_lanes
    )


@pytest.mark.parametrize(
    ("nodes", "settings", "lanes"),
    [
        ([{"CPU": 2.0}], resources(), 1),
        ([{"CPU": 16.0, "GPU": 8.0}], resources(gpus=1), 4),
        ([{"CPU": 4.0, "GPU": 8.0}], resources(gpus=1), 2),
        # Workers of one lane on two nodes: 1 + 1.
        ([{"CPU": 1.0}, {"CPU": 1.0}], resources(), 1),
        # 3 + 3 slots hold three lanes, one of which spans the nodes.
        ([{"CPU": 3.0}, {"CPU": 3.0}], resources(), 3),
        # Half a worker on each node is not a worker.
        ([{"CPU": 3.0}, {"CPU": 3.0}], resources(cpus=2.0), 1),
        # CPUs of one node and GPUs of another do not make a worker.
        ([{"CPU": 8.0}, {"CPU": 0.0, "GPU": 2.0}], resources(gpus=1), 0),
        ([{"CPU": 8.0}], resources(max_lanes=3), 3),
        ([{"CPU": 8.0}], resources(max_lanes=9), 4),
        ([], resources(), 0),
    ],
)
def test_capacity_counts_lanes(nodes, settings, lanes):
    assert capacity_of(nodes, settings).lanes == lanes


def test_capacity_counts_fractions_without_rounding_errors():
    # In floating point 0.3 // 0.1 is 2.
    assert capacity_of([{"CPU": 0.3}], resources(workers=1, cpus=0.1)).slots == (3,)
    assert capacity_of([{"CPU": 2.0}], resources(cpus=0.25)).lanes == 4


def test_require_lanes_gives_the_capacity_when_one_fits():
    assert require_lanes([{"CPU": 5.0}], resources(), "a.yaml") == Capacity((5,), 2)


def test_require_lanes_names_the_most_workers_when_the_cluster_is_too_small():
    with pytest.raises(UserError, match=r"workers_per_trial to 3 or less") as caught:
        require_lanes([{"CPU": 2.0}, {"CPU": 1.0}], resources(workers=4), "a.yaml")
    error = caught.value
    assert (error.file, error.key, error.value) == ("a.yaml", "resources.workers_per_trial", 4)
    assert "at most 3" in str(error)


def test_require_lanes_says_so_when_there_are_no_gpus():
    with pytest.raises(UserError, match=r"gpus_per_worker to 0") as caught:
        require_lanes([{"CPU": 64.0}], resources(gpus=1), "a.yaml")
    assert caught.value.key == "resources.gpus_per_worker"


def test_require_lanes_names_the_largest_worker_when_none_fits_on_a_node():
    with pytest.raises(UserError, match=r"cpus_per_worker to 4 or less") as caught:
        require_lanes([{"CPU": 4.0}, {"CPU": 2.0}], resources(cpus=6.0), "a.yaml")
    assert (caught.value.key, caught.value.value) == ("resources.cpus_per_worker", 6.0)


def test_require_lanes_counts_cpus_of_nodes_with_gpus_only_when_gpus_are_required():
    with pytest.raises(UserError, match=r"cpus_per_worker to 2 or less"):
        require_lanes([{"CPU": 64.0}, {"CPU": 2.0, "GPU": 8.0}], resources(cpus=4.0, gpus=1), "a.yaml")


def test_layout_fills_nodes_before_it_spans_them():
    assert layout(Capacity((3, 3), 3), 2) == [(0, 0), (1, 1), (0, 1)]
    assert layout(Capacity((3, 3), 1), 2) == [(0, 0)]
    assert layout(Capacity((1, 1, 1), 1), 3) == [(0, 1, 2)]
