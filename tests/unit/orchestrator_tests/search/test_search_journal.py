import errno
import itertools
import json
import multiprocessing
import pathlib
import resource

import pytest

from orchestrator.search import study_journal
from orchestrator.search.study import Study
from search_spaces.settings.sweep_settings import SweepSettings
from tests.support.sweeps.study_with_known_optimum import SAMPLERS, as_written, both_parts, finish, make_sweep, measured, run

GOOD = both_parts(mass=0.5, utility=0.5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.journal"


def writes(path):
    """The kinds of attributes and operations in the journal, in order, without the study's own."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [next(iter(line.get("user_attr", line.get("system_attr", {"state": 0})))) for line in lines if "trial_id" in line]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resumed_study_asks_for_what_the_uninterrupted_one_would_have(tmp_path, sampler):
    # GP samples at random for its first ten trials, and then takes a second each.
    sweep = make_sweep(sampler=sampler, trials=11 if sampler == "gp" else 20, seed=3)
    whole = run(Study.open(tmp_path / "whole.journal", sweep))
    in_pieces = [pair for _ in range(4) for pair in run(Study.open(tmp_path / "pieces.journal", sweep), trials=5)]
    assert in_pieces == whole


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_resumed_study_goes_on_alike_with_trials_running_stopped_and_failed(tmp_path, sampler):
    blocks = {"constraints": {"utility": {"at_least": 0.3}}}
    sweep = make_sweep(blocks=blocks, sampler=sampler, trials=60, newest_trials=20)

    def drive(study, until):
        asked = []
        for one in itertools.islice(iter(study.ask, None), until):
            asked.append((one.number, one.params))
            if one.number % 7 == 3:
                study.fail(one.number, "out of memory")
            elif one.number % 5 == 2:
                study.tell_rung(one.number, 1, measured(one.params))
                study.stop(one.number, "ranks low")
            elif one.number % 11 != 5:  # the others stay running
                finish(study, one.number, measured(one.params))
        return asked

    whole = drive(Study.open(tmp_path / "whole.journal", sweep), 60)
    study = Study.open(tmp_path / "pieces.journal", sweep)
    pieces = drive(study, 40)
    study = Study.open(tmp_path / "pieces.journal", sweep)
    assert [study.ask().number, study.ask().number] == [5, 16]
    assert pieces + drive(study, 20) == whole


def test_interrupted_trials_come_first_and_once_with_the_same_params(path):
    sweep = make_sweep(trials=5)
    dead = Study.open(path, sweep)
    asked = [dead.ask() for _ in range(3)]
    finish(dead, 1, measured(asked[1].params))
    study = Study.open(path, sweep)
    assert study.remaining() == 4
    assert [study.ask(), study.ask()] == [asked[0], asked[2]]
    assert [number for number, _ in run(study)] == [3, 4]
    assert len(study.records()) == 5


@pytest.mark.parametrize("lines", [1, 2])
def test_a_trial_whose_end_was_being_written_is_ended_on_the_next_start(path, lines):
    blocks = {"constraints": {"utility": {"at_least": 0.3}}}
    dead = Study.open(path, make_sweep(blocks=blocks))
    for _ in range(3):
        dead.ask()
    for end in (
        lambda study: finish(study, 0, GOOD),
        lambda study: study.stop(1, "ranks low"),
        lambda study: study.fail(2, "out of memory"),
    ):
        before = path.read_bytes()
        end(dead)
        # What a kill leaves of one write: some records, and a torn one.
        new = path.read_bytes().removeprefix(before).splitlines(keepends=True)
        first = next(index for index, line in enumerate(new) if b'"end"' in line)
        path.write_bytes(before + b"".join(new[: first + lines])[: None if lines == 1 else -5])
        dead = Study.open(path, make_sweep(blocks=blocks))
    records = dead.records()
    assert [(record.status, record.reason) for record in records] == [
        ("finished", None),
        ("stopped", "ranks low"),
        ("failed", "out of memory"),
    ]
    assert records[0].metrics == GOOD and dead._trial(0).constraints == {"utility at_least 0.3": -0.2}
    assert dead.ask().number == 3


def test_study_opens_after_a_torn_write(path):
    sweep = make_sweep()
    run(Study.open(path, sweep), trials=3)
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    study = Study.open(path, sweep)
    assert [record.status for record in study.records()] == ["finished", "finished", "finished"]
    assert [number for number, _ in run(study)] == list(range(3, 8))
    assert len(Study.read(path, sweep).records()) == 8


def drive(path, written, pipe):
    study = Study.open(path, SweepSettings.model_validate(written))
    while asked := study.ask():
        pipe.send(asked.number)
        finish(study, asked.number, GOOD)


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")
def test_study_survives_the_sigkill_of_its_driver(path, monkeypatch):
    monkeypatch.setattr(study_journal, "STALE_LOCK_S", 1)
    written = as_written(trials=1000, sampler="random")
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=drive, args=(path, written, theirs))
    child.start()
    seen = [ours.recv() for _ in range(12)]
    child.kill()
    child.join()
    study = Study.open(path, SweepSettings.model_validate(written))
    records = study.records()
    assert [record.number for record in records] == list(range(len(records)))
    assert [record.status for record in records[: seen[-1]]] == ["finished"] * seen[-1]
    assert sum(record.status == "running" for record in records) <= 1
    assert study.remaining() == 1000 - sum(record.status == "finished" for record in records)


def write_with_room_for(path, size, answer):
    """Ask for a trial where the file cannot grow beyond a size, as on a full disk, which writes what still fits."""
    study = Study.open(path, make_sweep())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        study.ask()
        answer.send("written")
    except OSError as error:
        answer.send(errno.errorcode[error.errno])


def test_a_write_that_does_not_fit_leaves_no_half_of_a_line(path):
    Study.open(path, make_sweep()).ask()
    before = path.read_bytes()
    ours, theirs = multiprocessing.Pipe(duplex=False)
    room = len(before) + 40
    child = multiprocessing.get_context("fork").Process(target=write_with_room_for, args=(path, room, theirs))
    child.start()
    assert ours.recv() == "EFBIG"
    child.join()
    assert path.read_bytes().startswith(before)
    assert path.read_bytes().endswith(b"\n")
    assert Study.open(path, make_sweep()).ask().number == 0


def test_a_lock_that_a_dead_driver_left_does_not_block(path, monkeypatch):
    Study.open(path, make_sweep())
    monkeypatch.setattr(study_journal, "STALE_LOCK_S", 1)
    (path.parent / "study.journal.lock").touch()
    with pytest.warns(UserWarning, match="grace_period"):
        assert Study.open(path, make_sweep()).ask() is not None


def test_a_trial_is_one_write_at_its_start_one_per_measurement_and_one_at_its_end(path, monkeypatch):
    study = Study.open(path, make_sweep(blocks={"constraints": {"utility": {"at_least": 0.3}}}))
    opened = []
    real = pathlib.Path.open
    monkeypatch.setattr(pathlib.Path, "open", lambda self, mode="r", **more: opened.append(mode) or real(self, mode, **more))
    study.ask()
    for rung in (1, 2):
        study.tell_rung(0, rung, GOOD)
    study.tell_test(0, 2, GOOD)
    study.finish(0)
    monkeypatch.undo()
    assert opened == ["ab"] * 5
    assert writes(path) == [
        *("rung:1", "reached", "rung:2", "reached", "rung:2", "reached"),
        "end",
        "constraints:utility at_least 0.3",
        "state",
    ]
