from dataclasses import replace

import pytest

from orchestrator.pareto.seed_statistics import confirmed_front
from orchestrator.report.sections import confirmation_section
from orchestrator.report.sections.confirmation_section import confirmation_content, confirmation_figure
from orchestrator.storage.followup_records import Confirmation
from orchestrator.storage.trial_records import TrialRecord
from tests.support.sweeps.sweep_pair import HYPERVOLUME, POINTS, confirmed, objectives, view

ALL = (0, 1, 2)
FAILED = Confirmation("t0001", 1, 3, "t0001", {}, "loss is <NaN>")


def section(confirmations, **more):
    settings = view("one", confirmations=confirmations, **more)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            confirmation_section, "figure_html", lambda name, figure: f"[{name}: {len(figure.data)} traces]"
        )
        return confirmation_content(settings)


def figure_of(confirmations, **more):
    settings = view("one", confirmations=confirmations, **more)
    found = confirmed_front(settings.front, settings.criteria, settings.confirmations)
    return confirmation_figure(settings, found)


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def with_loss(of):
    """A trial or a repetition with a third metric."""
    metrics = {**of.metrics, "validation/loss": 1.0, "test/loss": 1.0}
    return replace(of, metrics=metrics, **({"rungs": [metrics]} if isinstance(of, TrialRecord) else {}))


def cells(html):
    return [[cell.split("</td>")[0] for cell in row.split("<td>")[1:]] for row in html.split("<tr>")[2:]]


def test_section_is_empty_without_confirmations_of_the_front():
    assert section([]) == ""
    assert section([Confirmation("t0099", 1, 1, "t0099", {}, "gone")]) == ""


def test_section_sets_the_hypervolume_over_seeds_against_the_searched_one():
    html = section(confirmed(ALL, (1, 3)))
    # Each hundredth of mass costs 0.9 hundredths of the volume.
    one, three = HYPERVOLUME - 0.009, HYPERVOLUME - 0.027
    assert "3 of 3 members of the front were run again." in html
    assert f"over 2 seeds is {(one + three) / 2:.4f} ± {12.706 * 0.009:.4f}" in html
    assert f"seed by seed {one:.4f}, {three:.4f}" in html
    assert (
        f"As searched it was {HYPERVOLUME:.4f}, which is 0.0180 above; one seed differs from another by"
        " 0.0127" in html
    )


def test_section_of_one_seed_claims_no_interval():
    html = section(confirmed((0,), (1,)))
    assert "1 of 3 members" in html and "over one seed is 0.1710." in html and "±" not in html


def test_section_says_when_no_seed_is_complete():
    assert "No seed has them all yet" in section([*confirmed((0,), (1,)), *confirmed((1,), (2,))])


def test_table_holds_mean_spread_and_searched_value_of_each_member():
    rows = cells(section([*confirmed(ALL, (1, 2)), FAILED]))
    assert [row[0] for row in rows] == ["t0002", "t0001", "t0000"]
    assert rows[1][2:] == [
        "0.5150\u00a0±\u00a00.0635",
        "0.0071",
        "0.5000",
        "0.7000\u00a0±\u00a00.0000",
        "0.0000",
        "0.7000",
        rows[1][-1],
    ]
    assert rows[1][-1] == "2, and 1 failed: loss is &lt;NaN&gt;" and rows[0][-1] == "2"


def test_table_counts_repetitions_within_the_limits():
    limited = {"constraints": {"mass": {"at_most": 0.5}}}
    # Validation values are as searched, so t0001 keeps to the limit.
    broken = Confirmation("t0001", 1, 5, "t0001", confirmed((0,), (5,))[0].metrics)
    rows = cells(section([*confirmed((1, 2), (1, 2)), broken], blocks=limited))
    assert [row[-2] for row in rows] == ["2 of 2", "2 of 3"]


def test_figure_sets_means_with_intervals_beside_what_was_searched():
    found = traces(figure_of(confirmed(ALL, (1, 2))))
    means, searched = found["mean over new seeds, 95 % interval"], found["as searched"]
    assert list(zip(searched.x, searched.y, strict=True)) == list(reversed(POINTS))
    assert means.x == pytest.approx([mass + 0.015 for mass, _ in reversed(POINTS)])
    assert means.error_x.array == pytest.approx(
        [12.706 * 0.005] * 3, rel=1e-3
    ) and means.error_y.array == pytest.approx([0.0] * 3)
    assert len(found["one new seed"].x) == 6
    assert "original model" in found


def test_surfaces_run_from_the_reference_point_to_the_reference_point():
    found = traces(figure_of(confirmed(ALL, (1, 2))))
    worst, best = found["attained by all seeds (worst)"], found["attained by any seed (best)"]
    assert (worst.x[0], worst.y[0]) == (pytest.approx(0.22), 0.0) and (worst.x[-1], worst.y[-1]) == (1.0, 0.9)
    assert (best.x[0], best.y[0]) == (pytest.approx(0.21), 0.0) and (best.x[-1], best.y[-1]) == (1.0, 0.9)


def test_band_reaches_to_the_reference_point_when_a_seed_attained_nothing():
    failed = [Confirmation(f"t000{number}", 1, 2, f"t000{number}", {}, "out of memory") for number in ALL]
    found = traces(figure_of([*confirmed(ALL, (1,)), *failed]))
    band = found["attained by any, but not by all of 2 seeds"]
    assert (band.x[-1], band.y[-1]) == (1.0, 0.0)
    assert found["attained by all seeds (worst)"].x == ()


def test_three_objectives_have_a_panel_each_and_no_surfaces():
    three = objectives()["objectives"] | {"loss": {"direction": "minimize", "reference": 9.0}}
    settings = view("one", blocks={"objectives": three})
    records = [with_loss(record) for record in settings.records]
    confirmations = [with_loss(one) for one in confirmed(ALL, (1, 2))]
    html = section(confirmations, records=records, blocks={"objectives": three})
    assert "Attainment surfaces are drawn for two objectives only." in html
    figure = figure_of(confirmations, records=records, blocks={"objectives": three})
    assert not any(trace.name.startswith("attained") for trace in figure.data if trace.name)
    assert figure.layout.xaxis2.title.text.startswith("mass") and figure.layout.yaxis2.title.text.startswith(
        "loss"
    )


def test_lone_objective_has_a_table_and_no_figure():
    html = section(
        confirmed(ALL, (1, 2)), blocks={"objectives": {"mass": {"direction": "minimize", "reference": 1.0}}}
    )
    assert "[confirmation:" not in html and [row[0] for row in cells(html)] == ["t0002"]


def test_names_that_would_cover_another_are_left_out():
    points = ((0.2, 0.3), (0.201, 0.301), (0.8, 0.9))
    settings = view("one", *points, confirmations=confirmed(ALL, (1,)))
    shifted = [
        Confirmation(*one.key, one.member, settings.records[int(one.trial_id[1:])].metrics)
        for one in settings.confirmations
    ]
    figure = figure_of(shifted, records=settings.records)
    assert traces(figure)["mean over new seeds, 95 % interval"].text == ("t0000", "", "t0002")
