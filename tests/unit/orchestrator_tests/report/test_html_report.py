import re
from dataclasses import replace

import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

from orchestrator.pareto import sweep_view
from orchestrator.report import html_report
from orchestrator.report.html_report import write_report
from tests.support.sweeps.finished_sweep import records, sweep, validation_only, view

HEADINGS = [
    "Pareto front",
    "Members of the front",
    "Squeezing",
    "Hypervolume over trials",
    "Parallel coordinates",
    "Importance",
    "Early stopping",
    "Failed trials",
]
LIBRARY = get_plotlyjs()


# A finished sweep without masses: nothing was squeezed as far as anybody can tell.
BARE = [
    replace(
        record,
        rungs=[
            {key: value for key, value in rung.items() if "canonical" not in key} for rung in record.rungs
        ],
    )
    for record in records(8)
]
KINDS = {
    "forget_true_mass": {"direction": "minimize", "reference": 1.0},
    "utility": {"direction": "maximize", "reference": 0.0},
    "forget_coherence": {"direction": "maximize", "reference": 0.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of a finished closed-world sweep."""
    path = tmp_path_factory.mktemp("report")
    write_report(path, view())
    return path


@pytest.fixture(scope="module")
def page(folder):
    """Its HTML, as long as it is ours: Plotly's library is taken out, once."""
    return (folder / "report.html").read_text().replace(LIBRARY, "", 1)


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory):
    """Of a sweep with markup and a password in what people wrote."""
    failed = replace(records(1)[0], status="failed", reason="loss is <NaN> & gone")
    settings = sweep(
        description="<script>alert(1)</script>", model={"target": "https://me:secret@models.example/target"}
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_picture(monkeypatch)
        return written(tmp_path_factory.mktemp("hostile"), sweep=settings, records=[failed, *records(4)[1:]])


def without_picture(monkeypatch):
    """It takes a second to draw, and most tests look at the page alone."""
    monkeypatch.setattr(html_report, "draw_picture", lambda path, *what: path.touch())


def headings(html):
    return [heading for heading in re.findall("<h2>(.*?)</h2>", html) if heading != "Settings"]


def written(folder, **more):
    return write_report(folder, view(**more))[0].read_text().replace(LIBRARY, "", 1)


def test_report_has_every_section_of_a_finished_closed_world_sweep(folder, page):
    assert headings(page) == HEADINGS
    assert sorted(path.name for path in folder.iterdir()) == ["front.png", "report.html"]
    with Image.open(folder / "front.png") as image:
        assert image.width >= 1200


def test_report_is_one_file_that_loads_nothing_from_outside(page):
    # The one copy of the library was taken out.
    assert "plotly.js v" not in page
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", page)


def test_report_offers_no_upload_of_its_data(page):
    assert page.count('"showSendToCloud": false') == 6
    assert "cloud.plotly.com" not in page


def test_report_names_failed_trials_with_their_reasons(hostile_page):
    assert "loss is &lt;NaN&gt; &amp; gone" in hostile_page


def test_report_escapes_what_people_wrote(hostile_page):
    assert "<script>alert(1)" not in hostile_page
    assert "&lt;script&gt;alert(1)" in hostile_page


def test_report_shows_no_password_of_the_settings(hostile_page):
    assert "secret" not in hostile_page
    assert "https://***@models.example/target" in hostile_page


def test_report_of_a_sweep_that_has_just_begun_says_so(tmp_path):
    html = written(tmp_path, records=[], baselines={}, importances={})
    assert "no trial yet" in html
    assert headings(html) == []
    assert (tmp_path / "front.png").stat().st_size > 0


def test_report_leaves_out_squeezing_where_no_masses_are_measured(tmp_path, monkeypatch):
    without_picture(monkeypatch)
    assert headings(written(tmp_path, records=BARE)) == [
        heading for heading in HEADINGS if heading != "Squeezing"
    ]


def test_report_counts_trials_by_how_they_ended_and_members_by_rung(page):
    settings = view()
    members = settings.front.members
    assert f"18 finished, 1 stopped, 1 failed. {len(members)} on the front" in page
    assert all(f"<td>{member.name}</td>" in page for member in members)


@pytest.mark.parametrize("names", [["utility"], ["forget_true_mass", "utility", "forget_coherence"]])
def test_report_serves_one_objective_and_three(tmp_path, names):
    html = written(
        tmp_path,
        sweep=sweep(objectives={name: KINDS[name] for name in names}),
        records=BARE[:4],
        importances={},
    )
    assert all(f"{name} (" in html for name in names)
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_report_serves_a_log_scale_and_a_sweep_whose_every_trial_was_stopped_at_a_dominated_rung(
    tmp_path, monkeypatch
):
    without_picture(monkeypatch)
    log = KINDS["forget_true_mass"] | {"transform": "log", "clip": [0.001, 1.0]}
    settings = sweep(objectives={"forget_true_mass": log, "utility": KINDS["utility"]})
    assert "Pareto front" in headings(written(tmp_path, sweep=settings, records=records(4)))
    stopped = [
        replace(record, status="stopped", rungs=[validation_only(record.rungs[0])]) for record in records(3)
    ]
    html = written(tmp_path, sweep=settings, records=stopped, baselines={}, importances={})
    assert "3 stopped. 0 on the front" in html and "Pareto front" not in headings(html)


def counted(monkeypatch):
    """Names of the functions that go over all trials for a front, each time one is called."""
    calls = []
    for name in ("build_front", "hypervolume_history"):
        whole = getattr(sweep_view, name)

        def count(*arguments, name=name, whole=whole):
            calls.append(name)
            return whole(*arguments)

        monkeypatch.setattr(sweep_view, name, count)
    return calls


def test_report_builds_the_front_and_its_curve_once(tmp_path, monkeypatch):
    calls = counted(monkeypatch)
    write_report(tmp_path, view(records=records(4)))
    assert sorted(calls) == ["build_front", "hypervolume_history"]


def test_report_builds_no_front_where_the_driver_has_it(tmp_path, monkeypatch):
    found = view()
    known = {"known_front": found.front, "known_hypervolumes": found.hypervolumes}
    calls = counted(monkeypatch)
    without_picture(monkeypatch)
    write_report(tmp_path, view(**known))
    assert calls == []
