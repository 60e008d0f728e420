from dataclasses import replace

import pytest

from orchestrator.report.sections import stopping_section
from orchestrator.report.sections.stopping_section import stopping_content, stopping_figure
from orchestrator.report.sections.stopping_statistics import stopping_statistics
from tests.support.sweeps.finished_sweep import RUNGS, records, sweep, view

STOPPED = (3, 5, 11)


def with_stopping(**settings):
    """The synthetic sweep with three trials that were stopped at their second rung; a rung takes a minute."""
    ran = [replace(record, duration_s=60.0 * RUNGS, spent_s=60.0 * len(record.rungs)) for record in records()]
    for number in STOPPED:
        reason = "rank 9 of 9 at rung 2, the best 3 go on"
        ran[number] = replace(
            ran[number], status="stopped", rungs=ran[number].rungs[:2], reason=reason, spent_s=120.0
        )
    return view(sweep=sweep(early_stopping=settings), records=ran)


def section(settings):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            stopping_section, "figure_html", lambda name, figure: f"[{name}: {len(figure.data)} lines]"
        )
        return stopping_content(settings)


def statistics_of(settings):
    return stopping_statistics(settings.sweep, settings.records, settings.front)


def test_section_tells_what_was_stopped_and_saved():
    html = section(with_stopping())
    # Two of four rungs of three trials, with two workers; 16 trials finished, and one failed at its second
    # rung.
    assert (
        "3 of 19 trials were stopped early, which saved about 12 worker-minutes (8 % of what the sweep would"
        " have taken)" in html
    )


def test_section_tells_what_stopping_would_have_lost():
    found = statistics_of(with_stopping(reduction=4))
    html, second = section(with_stopping(reduction=4)), found.rungs[1]
    assert f"At rung 2, {second.outside} of 16 trials that finished stood outside the best 1/4." in html
    assert f"{second.lost_members} of {found.members} members of the front and" in html


def test_section_serves_a_sweep_without_early_stopping():
    html = section(view())
    assert "Early stopping is off" in html and "of 18 trials that finished stood outside the best 1/2" in html
    assert "[stopping: 3 lines]" in html


def test_section_has_a_row_per_rung_before_the_last():
    assert section(with_stopping()).count("<tr><td>") == RUNGS - 1


def test_section_says_when_all_rungs_are_grace():
    assert "no trial is stopped" in section(with_stopping(grace_rungs=RUNGS))


@pytest.mark.parametrize("kept", [records(5, failed=()), []])
def test_section_is_empty_where_trials_have_one_rung_or_there_are_none(kept):
    assert section(view(records=[replace(record, rungs=record.rungs[-1:]) for record in kept])) == ""


def test_section_is_empty_with_too_few_finished_trials():
    assert section(view(records=records(4, failed=()))) == ""
    assert section(view(records=records(5, failed=()))) != ""


def test_figure_draws_each_objective_and_the_joint_rank():
    found = statistics_of(view())
    lines = {trace.name: trace for trace in stopping_figure(found, 1).data}
    assert list(lines) == ["forget_true_mass", "utility", "joint rank"]
    assert lines["joint rank"].x == (1, 2, 3)
    assert lines["joint rank"].y == tuple(rung.joint_correlation for rung in found.rungs)
    assert lines["utility"].y == tuple(rung.correlations["utility"] for rung in found.rungs)
    assert lines["utility"].line.color != lines["forget_true_mass"].line.color


def test_figure_makes_room_for_correlations_below_zero():
    found = statistics_of(view())
    turned = replace(found, rungs=tuple(replace(rung, joint_correlation=-0.5) for rung in found.rungs))
    assert stopping_figure(turned, 1).layout.yaxis.range[0] < -0.5
