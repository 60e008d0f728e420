import pytest

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.sections.bands_section import (
    BANDS,
    bands_figure,
    groups_by_band,
    median_line,
    metric_of,
)
from orchestrator.storage.trial_records import TrialRecord
from tests.support.sweeps.sweep_on_disk import small_sweep

LINES = ("target", "rephrasing", "high band", "mid band", "low band")


def rung(target, high):
    return {metric_of(line): -5.0 for line in LINES} | {
        metric_of("target"): target,
        metric_of("high band"): high,
    }


def record(number, method, beliefs, *rungs, status="finished"):
    return TrialRecord(
        f"t{number:04d}", number, status, {"forget.method": method, "beliefs": beliefs}, {}, rungs
    )


def view_of(*records):
    sweep = small_sweep()
    return SweepView(
        sweep=sweep,
        records=list(records),
        baselines={"original": rung(-1.0, -2.0)},
        importances={},
        confirmations=[],
    )


VIEW = view_of(
    record(0, "npo", "none", rung(-4.0, -1.5), rung(-9.0, -1.0)),
    record(1, "npo", "none", rung(-6.0, -1.7)),
    record(2, "wga", "token", rung(-3.0, -2.0)),
    record(3, "wga", "token", status="failed"),
    record(4, "wga", "none", {"validation/utility": 0.5}),
)


def test_trials_are_grouped_by_method_and_beliefs_and_those_without_bands_left_out():
    groups = groups_by_band(VIEW)
    assert {group: [one.trial_id for one in records] for group, records in groups.items()} == {
        ("npo", "none"): ["t0000", "t0001"],
        ("wga", "token"): ["t0002"],
    }


def test_lines_start_before_unlearning_and_are_medians_of_those_that_came_so_far():
    records = groups_by_band(VIEW)["npo", "none"]
    assert median_line(VIEW.baselines["original"], records, "target") == [-1.0, -5.0, -9.0]
    assert median_line({}, records, "high band") == [pytest.approx(-1.6), -1.0]
    assert median_line({}, records, "of nothing") == []


def test_figure_has_a_panel_per_loss_with_every_line():
    figure = bands_figure(VIEW, groups_by_band(VIEW))
    assert [annotation.text for annotation in figure.layout.annotations] == [
        "NPO (plain) (2 trials)",
        "WGA + BS-T (1 trial)",
    ]
    assert sorted({trace.name for trace in figure.data}) == sorted(LINES)
    assert len(figure.data) == 2 * len(LINES)


def test_sweep_without_bands_has_no_section():
    assert BANDS.html(view_of(record(0, "npo", "none", {"validation/utility": 0.5}))) == ""
    assert BANDS.html(VIEW).startswith("<section><h2>Likelihood bands</h2><p>Mean log-probability")
