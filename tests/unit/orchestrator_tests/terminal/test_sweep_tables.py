import csv
import io
import json
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.tables import front_csv, params_line
from orchestrator.storage.followup_records import Audit
from orchestrator.storage.trial_records import TrialRecord, trial_id
from orchestrator.terminal.sweep_tables import show_front, show_status, status_json
from tests.support.sweeps.sweep_on_disk import (
    BASELINES,
    FRONT,
    HYPERVOLUME,
    POINTS,
    REASON,
    measured,
    small_sweep,
)

SWEEP = small_sweep()


def records():
    """The trials of `stored_sweep.store`, without a study."""
    found = []
    for number, point in enumerate(POINTS):
        params = {"forget.method": "npo", "optimizer.learning_rate": 1e-4 * (number + 1)} | (
            {"epochs": 2} if number == 1 else {}
        )
        status = "failed" if point is None else "finished"
        metrics, reason = ({}, REASON) if point is None else (measured(*point), None)
        found.append(
            TrialRecord(
                trial_id(number),
                number,
                status,
                params,
                metrics,
                [metrics],
                reason,
                duration_s=10.0,
                spent_s=10.0,
            )
        )
    return [
        *found,
        TrialRecord(trial_id(5), 5, "running", {}, measured(0.9, 0.9), [measured(0.9, 0.9)], spent_s=2.5),
    ]


def stopped(number, *points, reason="ranks 7 of 9"):
    """A trial that ended at a rung which was not kept, after others that were."""
    last = {key: value for key, value in measured(*points[-1]).items() if key.startswith("validation")}
    rungs = [*(measured(*point) for point in points[:-1]), last]
    return TrialRecord(
        trial_id(number), number, "stopped", {}, last, rungs, reason, duration_s=5.0, spent_s=5.0
    )


def front(trials=None, baselines=True, audits=()):
    known = {name: measured(*point) for name, point in BASELINES.items()}
    return SweepView(
        SWEEP, records() if trials is None else trials, known if baselines else {}, audits=audits
    )


def printed(show, *arguments):
    console = Console(file=StringIO(), width=220, markup=False)
    show(*arguments, console)
    return console.file.getvalue()


def test_status_counts_trials_and_worker_time():
    status = status_json(SWEEP, [*records(), stopped(6, (0.9, 0.1))])
    assert [status[key] for key in ("trials", "finished", "stopped", "failed", "running")] == [6, 4, 1, 1, 1]
    assert status["hypervolume"] == pytest.approx(HYPERVOLUME)
    # Two workers a trial: five of 10 s, one of 5 s, and 2.5 s of an attempt that was cut off.
    assert status["worker_seconds"] == pytest.approx(2 * 57.5)
    assert sum(entry["worker_seconds"] for entry in status["records"]) == pytest.approx(
        status["worker_seconds"]
    )


def test_status_tells_the_time_left_on_one_lane():
    assert status_json(SWEEP, records())["eta_s"] == pytest.approx(52.5 / 5)


def test_status_names_the_rungs_on_the_front():
    trials = [stopped(0, (0.5, 0.7), (0.4, 0.5), (0.9, 0.1)), stopped(1, (0.6, 0.6), (0.9, 0.1))]
    first, second = status_json(SWEEP, trials)["records"]
    assert (first["on_front"], first["front_rungs"]) == (True, [1, 2])
    assert (first["status"], first["reason"], first["objectives"]) == ("stopped", "ranks 7 of 9", None)
    assert first["validation"] == {"forget_true_mass": 0.9, "utility": 0.1}
    assert (second["on_front"], second["front_rungs"]) == (False, [])


def test_status_has_every_trial_as_plain_data():
    status = json.loads(json.dumps(status_json(SWEEP, records())))
    assert [entry["trial_id"] for entry in status["records"]] == [trial_id(number) for number in range(6)]
    assert [entry["trial_id"] for entry in status["records"] if entry["on_front"]] == sorted(FRONT)
    assert status["records"][1]["objectives"] == {"forget_true_mass": 0.5, "utility": 0.7}
    assert (status["records"][3]["objectives"], status["records"][3]["reason"]) == (None, REASON)


def test_status_of_a_sweep_without_trials():
    status = status_json(SWEEP, [])
    assert (status["finished"], status["hypervolume"], status["eta_s"], status["records"]) == (
        0,
        0.0,
        None,
        [],
    )


def test_status_table_marks_front_failures_and_running_trials():
    text = printed(show_status, SWEEP, records())
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells]
        for line in text.splitlines()
        if len(cells := line.split("│")) == 9
    }
    assert [name for name, cells in rows.items() if cells[2] == "on the front at rung 1"] == sorted(FRONT)
    assert rows["t0002"][2:6] == ["finished", "0.6000", "0.6000", "10 s"]
    assert rows["t0003"][2:7] == ["failed", "", "", "10 s", REASON]
    assert rows["t0005"][2] == "running"
    assert "forget_true_mass (minimize)" in text and "utility (maximize)" in text
    assert "5 of 6 trials done, 0 stopped, 1 failed; 0.03 worker-hours; hypervolume 0.4800" in text


def test_status_table_says_why_a_trial_was_stopped_unless_it_is_on_the_front():
    text = printed(
        show_status, SWEEP, [stopped(0, (0.5, 0.7), (0.4, 0.5), (0.9, 0.1)), stopped(1, (0.9, 0.1))]
    )
    rows = [[cell.strip() for cell in line.split("│")] for line in text.splitlines() if line.startswith("│")]
    assert [cells[2] for cells in rows] == ["on the front at rung 1, 2", "stopped"]
    assert [cells[6] for cells in rows] == ["", "ranks 7 of 9"]
    assert "2 of 6 trials done, 2 stopped, 0 failed" in text


def test_front_table_goes_from_best_to_worst_with_the_baselines_under_it():
    text = printed(show_front, front())
    rows = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert rows == [*FRONT, "original", "retrained"]
    assert "hypervolume 0.4800" in text
    assert "0.9500" in text


def test_front_table_names_the_rung_of_a_member():
    text = printed(show_front, front([stopped(7, (0.5, 0.7), (0.4, 0.5), (0.9, 0.1))]))
    assert [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")][:2] == [
        "t0007@2",
        "t0007@1",
    ]


def test_front_table_without_members_and_baselines_has_its_head_only():
    text = printed(show_front, front([], baselines=False))
    assert "utility (maximize)" in text and "original" not in text


def test_front_csv_is_read_back_with_full_precision():
    rows = list(csv.DictReader(io.StringIO(front_csv(front()))))
    assert [row["trial_id"] for row in rows] == [*FRONT, "original", "retrained"]
    assert [row["rung"] for row in rows] == ["1", "1", "1", "", ""]
    assert [(float(row["forget_true_mass"]), float(row["utility"])) for row in rows[:3]] == [
        POINTS[4],
        POINTS[1],
        POINTS[0],
    ]
    assert [row["epochs"] for row in rows] == ["", "2", "", "", ""]
    assert float(rows[0]["optimizer.learning_rate"]) == 5e-4
    assert float(rows[4]["utility"]) == BASELINES["retrained"][1]


def test_front_csv_of_an_empty_front_has_its_head_only():
    assert front_csv(front([], baselines=False)) == "trial_id,forget_true_mass,utility,rung\n"


def test_params_are_one_line_with_short_numbers():
    params = {"forget.method": "npo", "retain.weight": 0.123456, "epochs": 3}
    assert params_line(params) == "forget.method=npo, retain.weight=0.123, epochs=3"


def test_front_shows_the_worst_probe_and_csv_shows_all():
    leaks = [{"probe": "leak", "id": "p1"}, {"probe": "leak", "id": "p2"}]
    audits = [
        Audit(FRONT[0], {"test/leak_at_k": 0.25, "test/forget_told": 0.1}, leaks, 3, "way"),
        Audit("original", {"test/leak_at_k": 1.0}, [], 3, "way"),
    ]
    table = printed(show_front, front(audits=audits))
    assert "worst probe" in table and "hidden facts" in table and "leak@k" not in table
    head, *rows = list(csv.reader(io.StringIO(front_csv(front(audits=audits)))))
    assert head[-4:] == ["asked", "leak@k", "worst probe", "hidden facts"]
    assert rows[0][-4:] == ["0.1", "0.25", "0.25", "2.0"] and all(len(row) == len(head) for row in rows)
    assert next(row for row in rows if row[0] == "original")[-4:] == ["", "1.0", "1.0", "0.0"]
