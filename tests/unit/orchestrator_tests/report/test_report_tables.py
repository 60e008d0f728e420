from orchestrator.pareto.front import build_front, front_json
from orchestrator.pareto.objectives import criteria_of
from orchestrator.report.tables import failed_table, front_table, leaderboard
from tests.support.sweeps.finished_sweep import records, sweep, view


def test_leaderboard_lists_the_members_and_then_the_baselines():
    settings = view()
    text = leaderboard(front_json(settings.sweep, settings.records, settings.baselines))
    lines = text.splitlines()
    front = build_front(settings.records, criteria_of(settings.sweep))
    assert lines[0].startswith(
        f"**Hypervolume {front.hypervolume:.4f}** over 20 trials, 1 stopped, 1 failed."
    )
    assert lines[2] == "| trial | forget_true_mass (minimize) | utility (maximize) | parameters |"
    assert lines[4].startswith("| t0015 | 0.0100 | 0.0656 | forget.method=graddiff, beliefs=sequence")
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        *(f"| {member.name}" for member in front.members),
        "| *original*",
        "| *retrained*",
    ]
    assert any("@" in member.name for member in front.members)


def test_leaderboard_has_a_column_for_each_probe_that_was_made():
    settings = view()
    found = front_json(settings.sweep, settings.records, settings.baselines)
    audits = {
        "t0015": {"leak@k": 0.25, "worst probe": 0.25, "hidden facts": 2.0},
        "original": {"leak@k": 1.0, "worst probe": 1.0},
    }
    lines = leaderboard(found | {"audits": audits}).splitlines()
    assert lines[2].endswith("| utility (maximize) | leak@k | worst probe | hidden facts | parameters |")
    row, baseline, other = (
        next(line for line in lines if line.startswith(f"| {name} "))
        for name in ("t0015", "*original*", "*retrained*")
    )
    assert "| 0.25 | 0.25 | 2 | forget.method" in row
    assert baseline.endswith("| 1 | 1 |  |  |") and other.endswith("|  |  |  |  |")
    assert len({line.count(" | ") for line in (lines[2], row, baseline, other)}) == 1


def test_leaderboard_says_so_while_the_front_is_empty():
    assert leaderboard(front_json(sweep(), [], {})).endswith("No trial is on the front yet.")


def test_front_table_shows_both_parts_and_the_method():
    settings = view()
    front = settings.front
    html = front_table(settings)
    assert html.count("<tr>") == 1 + len(front.members) + 2
    assert all(f"<td>{member.name}</td>" in html for member in front.members)
    assert (
        "<td>t0015</td><td>GradDiff +"
        " BS-S</td><td>0.0100</td><td>0.0656</td><td>0.0000</td><td>0.0753</td><td>10 s</td>" in html
    )
    assert "<td>retrained model</td>" in html


def test_failed_table_is_empty_when_none_failed():
    assert failed_table(view(records=records(failed=()))) == ""
