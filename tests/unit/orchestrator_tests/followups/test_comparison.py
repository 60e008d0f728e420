from dataclasses import replace

import pytest

from orchestrator.followups.comparison import compare
from orchestrator.pareto.sweep_view import data_digest, read_view
from search_spaces.user_errors import UserError
from tests.support.sweeps import sweep_on_disk
from tests.support.sweeps.random_trials import record
from tests.support.sweeps.study_with_known_optimum import make_sweep
from tests.support.sweeps.sweep_pair import HYPERVOLUME, confirmed, objectives, view


def compared(*views, digests=None):
    return compare(views, digests or ["same"] * len(views))


def test_each_sweep_has_its_work_its_front_and_its_baselines():
    failed = record(3, status="failed", spent_s=900.0, finished_at=9999.0)
    one = view("one")
    first, second = compared(replace(one, records=[*one.records, failed]), view("two", (0.4, 0.6))).sweeps
    assert (first.name, first.ended, first.failed, first.stopped) == ("one", 4, 1, 0)
    assert first.worker_hours == pytest.approx(3.5)
    assert first.front.hypervolume == pytest.approx(HYPERVOLUME)
    assert first.best == {"mass": 0.2, "utility": 0.9}
    assert first.baselines == {
        "original": {"mass": 0.9, "utility": 0.9},
        "prompted": None,
        "retrained": None,
        "retrained_twin": None,
    }
    assert second.best == {"mass": 0.4, "utility": 0.6}


def test_work_of_a_running_trial_that_was_repeated_is_counted():
    one = view("one")
    running = record(3, status="running", spent_s=1800.0)
    side, _ = compared(replace(one, records=[*one.records, running]), view("two")).sweeps
    assert side.worker_hours == pytest.approx(4.0)


def test_hypervolume_at_equal_time_is_taken_where_the_shortest_sweep_ended():
    comparison = compared(view("long"), view("short", (0.4, 0.6), spent_s=3600.0))
    assert comparison.equal_worker_hours == pytest.approx(2.0)
    long, short = comparison.sweeps
    # Two of its three trials had ended by then.
    assert long.hypervolume_at_equal_time == pytest.approx(0.2 * 0.9 + 0.3 * 0.7)
    assert short.hypervolume_at_equal_time == short.front.hypervolume


def test_reference_point_of_the_first_sweep_is_used_for_all():
    one, two = compared(view("one"), view("two", blocks=objectives(reference=0.9))).sweeps
    assert one.front.hypervolume == two.front.hypervolume == pytest.approx(HYPERVOLUME)


def test_each_sweep_keeps_its_own_limits():
    limited = view("two", blocks={"constraints": {"utility": {"at_least": 0.5}}})
    one, two = compared(view("one"), limited).sweeps
    assert one.front.trial_ids == {"t0000", "t0001", "t0002"}
    assert two.front.trial_ids == {"t0000", "t0001"}


def test_interval_is_over_seeds_where_the_whole_front_was_confirmed():
    side, other = compared(view("one", confirmations=confirmed((0, 1, 2), (1, 2))), view("two")).sweeps
    volumes = [HYPERVOLUME - seed / 100 * 0.9 for seed in (1, 2)]
    assert side.confirmed.mean == pytest.approx(sum(volumes) / 2)
    assert side.interval.source == "seeds"
    assert side.interval.high - side.interval.low == pytest.approx(2 * 12.706 * 0.0045, rel=1e-3)
    assert other.interval.source == "trials" and other.confirmed is None


@pytest.mark.parametrize(("members", "seeds"), [((0, 1), (1, 2)), ((0, 1, 2), (1,))])
def test_interval_is_over_trials_while_confirmations_are_too_few(members, seeds):
    side = compared(view("one", confirmations=confirmed(members, seeds)), view("two")).sweeps[0]
    assert side.interval.source == "trials"


def test_sweeps_with_other_objectives_are_refused_with_their_differences():
    other = {
        "objectives": {
            "mass": {"direction": "maximize", "reference": 0.0},
            "speed": {"direction": "maximize", "reference": 0.0},
        }
    }
    lines = "mass: minimize -> maximize\n  utility: maximize -> none\n  speed: none -> maximize"
    message = f"one and two have different objectives and cannot be compared:\n  {lines}"
    with pytest.raises(UserError, match=message):
        compared(view("one"), view("two", blocks=other))


def test_order_of_the_objectives_does_not_matter():
    turned = {"objectives": dict(reversed(objectives()["objectives"].items()))}
    one, two = compared(view("one"), view("two", blocks=turned)).sweeps
    assert two.front.objectives == one.front.objectives and two.front.hypervolume == one.front.hypervolume


def test_a_single_sweep_is_no_comparison():
    with pytest.raises(UserError, match="Name at least two"):
        compared(view("one"))


@pytest.mark.parametrize(
    ("blocks", "digest", "warning"),
    [
        (None, "same", None),
        (None, "other", "two has other data than one"),
        (None, None, "the data of two cannot be read any more"),
        (objectives(reference=0.9), "same", "two was searched with another reference point"),
        ({"constraints": {"utility": {"at_least": 0.5}}}, "same", "two keeps its own limits"),
    ],
)
def test_comparison_warns_of_what_makes_it_unfair(blocks, digest, warning):
    found = compared(view("one"), view("two", blocks=blocks), digests=["same", digest]).warnings
    assert len(found) == (warning is not None)
    assert warning is None or found[0].startswith(warning)


def test_sweep_without_an_ended_trial_can_be_compared():
    empty = view("two", records=[])
    side = compared(view("one"), empty).sweeps[1]
    assert (side.ended, side.front.hypervolume, side.interval, side.best) == (0, 0.0, None, {})


def test_sweep_on_disk_is_read_with_its_baselines(tmp_path):
    folder, sweep, study = sweep_on_disk.store(tmp_path)
    found = read_view(folder, sweep, study.records())
    assert found.baselines["retrained"]["test/utility"] == 0.97 and found.confirmations == []


def test_digest_of_missing_data_is_none(tmp_path):
    missing = str(tmp_path / "missing.jsonl")
    files = {"benchmark": "local_files", "forget": missing, "retain": missing}
    assert data_digest(make_sweep(blocks={"data": files})) is None
    world = make_sweep(blocks={"data": {"benchmark": "closed_world", "people": 6, "forget_people": 2}})
    assert data_digest(world) == data_digest(world) is not None
