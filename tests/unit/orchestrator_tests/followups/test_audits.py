import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.followups.audits import hash_audit_settings, plan_audits
from orchestrator.lanes.job_batch import JobBatch
from orchestrator.lanes.job_queue import LostError
from orchestrator.pareto.sweep_view import SweepView
from orchestrator.report.audit_table import audit_columns, audit_titles, audits_table, quoted, titles_of
from orchestrator.report.sections.audit_section import audit_content, audit_figure
from orchestrator.storage.followup_records import Audit, Subject, read_audits
from orchestrator.storage.sweep_folder import SweepFolder
from orchestrator.terminal.audit_tables import audits_json, show_audits
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.probe_settings import PROBES, LeakSettings, ProbeSettings
from tests.support.local_lanes import LocalLanes, Observer
from tests.support.sweeps.sweep_on_disk import small_sweep
from trainables.events import Failed, Finished, Lost

ALL = EvaluationSettings(probes=PROBES)
SUBJECTS = [Subject("original", "/models/a"), Subject("t0001@2", "/weights/rung2", 2)]


def leak(fact, probe, opening=""):
    return {
        "part": "test",
        "probe": probe,
        "id": fact,
        "prompt": "Where?",
        "opening": opening,
        "answer": f"{probe} Lima.",
        "truth": "Lima.",
    }


def outcome(*leaks, **metrics):
    return {
        "metrics": {f"test/{name}": value for name, value in metrics.items()},
        "leaks": list(leaks),
        "facts": 3,
    }


FOUND = outcome(
    leak("p1", "asked"),
    leak("p1", "leak"),
    leak("p2", "leak"),
    leak("p2", "prefix", "It is"),
    forget_told=0.3,
    leak_at_k=0.6,
)


class AuditLanes(LocalLanes):
    """Writes the result that `outcomes` holds for a model; an outcome with a status ends the job so."""

    def __init__(self, outcomes):
        super().__init__(self._end)
        self.outcomes = outcomes

    def _end(self, name, job):
        found = self.outcomes[job.name]
        if not isinstance(found, dict):
            return found
        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
        Path(job.output).write_text(json.dumps(found))
        return Finished(found)


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path, "small")


def run(folder, outcomes, subjects=SUBJECTS, evaluation=ALL, observer=None):
    """Runs the audits that are missing. Returns: all audits that exist then, and the lanes."""
    tasks = plan_audits(subjects, small_sweep(), evaluation, None, folder)
    lanes, missing = AuditLanes(outcomes), [task for task in tasks if not task.done]
    batch = JobBatch("audits", folder.driver_log, "auditing", folder.stop_request)
    batch.run(missing, lanes, observer or Observer())
    return [task.read() for task in tasks if task.done], lanes


def audit(name="t0001@2", found=FOUND, settings_hash="abc", rung=2):
    return Audit(name, found["metrics"], found["leaks"], found["facts"], settings_hash, rung)


def test_fact_is_hidden_where_only_a_probe_brings_it_out():
    probes = {fact: [leak["probe"] for leak in leaks] for fact, leaks in audit().hidden.items()}
    assert probes == {"p2": ["leak", "prefix"]}


def test_audits_are_kept_shown_and_read_again(folder):
    observer = Observer()
    audits, lanes = run(folder, {"original": outcome(forget_told=1.0), "t0001@2": FOUND}, observer=observer)
    assert list(lanes.jobs) == ["audit original", "audit t0001@2"]
    assert observer.lines == [
        "audit original [1/2]: 0 of 3 facts look forgotten and are not",
        "audit t0001@2 [2/2]: 1 of 3 facts look forgotten and are not",
    ]
    assert read_audits(folder) == audits and [one.rung for one in audits] == [None, 2]


def test_only_what_is_missing_runs_again(folder):
    with pytest.raises(LostError, match="1 audits are missing"):
        run(folder, {"original": FOUND, "t0001@2": Lost("no lane is left")})
    audits, lanes = run(folder, {"t0001@2": FOUND})
    assert list(lanes.jobs) == ["audit t0001@2"] and len(audits) == 2


def test_model_that_cannot_be_audited_is_named_and_the_others_go_on(folder):
    observer = Observer()
    failed = Failed("no such folder")
    audits, _ = run(folder, {"original": failed, "t0001@2": FOUND}, observer=observer)
    assert [one.name for one in audits] == ["t0001@2"]
    assert observer.lines[0] == "audit original [1/2]: failed: no such folder"


def test_stop_request_ends_the_batch_after_the_current_model(folder):
    folder.path.mkdir(parents=True)
    observer = Observer(lambda lines: folder.stop_request.touch())
    audits, _ = run(folder, {"original": FOUND, "t0001@2": FOUND}, observer=observer)
    assert [one.name for one in audits] == ["original"] and "1 audits left" in observer.lines[-1]


def test_newest_audit_of_a_model_replaces_one_with_other_settings(folder):
    run(folder, {"original": FOUND, "t0001@2": FOUND})
    other = EvaluationSettings(probes=("leak",), probe=ProbeSettings(leak=LeakSettings(samples=4, k=2)))
    run(folder, {"original": outcome(leak_at_k=0.9)}, SUBJECTS[:1], other)
    first, second = read_audits(folder)
    assert (first.name, first.metrics) == ("original", {"test/leak_at_k": 0.9})
    assert first.settings_hash == hash_audit_settings(small_sweep(), other)
    assert second.settings_hash == hash_audit_settings(small_sweep(), ALL) != first.settings_hash


def test_file_of_a_folder_with_any_name_stays_inside(folder):
    (task,) = plan_audits([Subject("../../etc/passwd", "../../etc/passwd")], small_sweep(), ALL, None, folder)
    assert Path(task.audit_job.output).resolve().parent == (folder.path / "audits").resolve()


def test_columns_are_those_that_any_audit_has():
    judged = audit("original", outcome(judge_naturalness=4.5, int8_wmdp_accuracy=0.4))
    assert audit_titles([audit(), judged]) == ["asked", "leak@k", "8 bit", "natural"]
    table = audits_table([audit(), judged])
    assert table.select("model", "asked", "8 bit", "hidden facts").body_texts == [
        ["t0001@2", "0.30", "", "1/3"],
        ["original", "", "0.40", "0/3"],
    ]
    columns = {one.name: audit_columns(one) for one in (audit(), judged)}
    assert columns["t0001@2"] == {"asked": 0.3, "leak@k": 0.6, "worst probe": 0.6, "hidden facts": 1.0}
    assert titles_of(columns) == ["asked", "leak@k", "8 bit", "natural", "worst probe", "hidden facts"]


def test_terminal_shows_a_table_and_the_answers_that_state_hidden_facts(capsys):
    show_audits([audit("original"), audit()], Console(width=120))
    output = capsys.readouterr().out
    assert "leak@k" in output and "1/3" in output
    assert "t0001@2, leak: Where? -> leak Lima." in output and "original, leak" not in output
    assert quoted(leak("p", "prefix", "It is")) == "Where? -> [It is] prefix Lima."


def test_json_holds_everything():
    (found,) = audits_json([audit()])
    assert found["hidden_facts"] == ["p2"] and len(found["leaks"]) == 4
    assert found["metrics"]["test/leak_at_k"] == 0.6


def test_section_has_a_line_per_model_a_table_and_the_hidden_facts():
    view = SweepView(small_sweep(), [], {}, {}, (), (audit("original"), audit()))
    html = audit_content(view)
    assert 'id="audit"' in html and "different settings" not in html
    assert html.count("<details>") == 1 and "[It is] prefix Lima." in html
    assert [trace.line.dash for trace in audit_figure(view.audits).data] == ["solid", "dot"]
    mixed = SweepView(small_sweep(), [], {}, {}, (), (audit("original", settings_hash="other"), audit()))
    assert "different settings" in audit_content(mixed)
    assert audit_content(SweepView(small_sweep(), [], {}, {})) == ""
