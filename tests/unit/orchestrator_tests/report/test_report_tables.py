from orchestrator.report.tables import failed_table, front_table, leaderboard
from orchestrator.storage.followup_records import Audit
from tests.support.sweeps.finished_sweep import records, sweep, view


def test_leaderboard_lists_the_members_and_then_the_baselines():
    settings = view()
    lines = leaderboard(settings).splitlines()
    front = settings.front
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


def audit(name, rate, hidden):
    leaks = [{"probe": "leak", "id": f"p{number}"} for number in range(hidden)]
    return Audit(name, {"test/leak_at_k": rate}, leaks, 3, "way")


def test_leaderboard_has_a_column_for_each_probe_that_was_made():
    lines = leaderboard(view(audits=[audit("t0015", 0.25, 2), audit("original", 1.0, 0)])).splitlines()
    assert lines[2].endswith("| utility (maximize) | leak@k | worst probe | hidden facts | parameters |")
    row, baseline, other = (
        next(line for line in lines if line.startswith(f"| {name} "))
        for name in ("t0015", "*original*", "*retrained*")
    )
    assert "| 0.25 | 0.25 | 2 | forget.method" in row
    assert baseline.endswith("| 1 | 1 | 0 |  |") and other.endswith("|  |  |  |  |")
    assert len({line.count(" | ") for line in (lines[2], row, baseline, other)}) == 1


def test_leaderboard_says_so_while_the_front_is_empty():
    assert leaderboard(view(records=[], baselines={})).endswith("No trial is on the front yet.")


def test_front_table_knows_both_parts_and_the_method():
    settings = view()
    table = front_table(settings)
    assert [row[0] for row in table.rows] == [member.name for member in settings.front.members]
    names = ("forget_true_mass", "utility", "validation forget_true_mass", "validation utility")
    assert table.select("trial", "trial_id", "rung", "method", *names, "time").body_texts[0] == [
        *("t0015", "t0015", "4", "GradDiff + BS-S"),
        *("0.0100", "0.0656", "0.0000", "0.0753", "10 s"),
    ]
    assert table.select("trial", *names).foot_texts[1] == ["retrained", "0.0510", "0.9789", "", ""]


def test_failed_table_is_empty_when_none_failed():
    assert failed_table(view(records=records(failed=()))).rows == []


def test_baselines_stand_in_one_order_whatever_the_order_on_disk():
    turned = dict(reversed(view().baselines.items()))
    assert [row[0] for row in front_table(view(sweep=sweep(), baselines=turned)).foot] == [
        "original",
        "retrained",
    ]
