import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.settings.model_settings import ModelSettings
from search_spaces.settings.trial_settings import TrialSettings
from tests.support.training.plain_engine import PlainEngine, random_examples, random_llama, run_ranks
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark
from trainables.data.examples import Benchmark
from trainables.events import RungDecision
from trainables.jobs import TrialJob
from trainables.training import checkpoints as module
from trainables.training import trial as trial_module
from trainables.training.checkpoints import checkpoint_key, checkpoints_of
from trainables.training.rungs import AtRungs
from trainables.training.trial import run_trial
from trainables.training.trial_state import PHASES

EMPTY = Benchmark(forget=(), retain=(), target_text=(), retrained_text=(), parts={}, digest="")
DATA = EncodedBenchmark(
    EMPTY, random_examples("forget", [(2, 3)] * 5, seed=1), random_examples("retain", [(2, 2)] * 3, seed=2)
)
# Two steps are an epoch; beliefs are sampled at steps 0 and 4; rungs are after steps 2, 4, 6 and 8.
TRIAL: dict[str, Any] = {
    "steps": 8,
    "rungs": 4,
    "forget": {"method": "npo"},
    "beliefs": "token+sequence",
    "optimizer": {"learning_rate": 1e-2, "global_batch": 3, "micro_batch": 3},
    "sequence_belief": {"num_samples": 2, "max_new_tokens": 3, "refresh_epochs": 2},
}
ON, KEEP, STOP = RungDecision(), RungDecision(keep=True), RungDecision(go_on=False, reason="ranks 7 of 9")


class Killed(BaseException):
    """Stands for a worker that is gone."""


class Tokenizer:
    """Ids of the random model; 0 ends an answer."""

    chat_template, eos_token_id, pad_token_id = None, 0, 0


class Stage:
    """Runs one trial, with its checkpoints below `home`, as often as it takes."""

    def __init__(self, home: Path, **trial: Any) -> None:
        self.home, self.decide, self.every = (
            home,
            lambda rung, rungs: RungDecision(keep=rung in (2, rungs)),
            3,
        )
        self.trial = TrialSettings.model_validate(TRIAL | trial)

    def engine(self) -> PlainEngine:
        return PlainEngine(random_llama(layers=1), Tokenizer())

    def job(self, **more: Any) -> TrialJob:
        places = {"checkpoint": str(self.home), "checkpoint_steps": self.every}
        return TrialJob(model=ModelSettings(base="scratch"), folder="/m", trial=self.trial, **(places | more))

    def run(self, engine: PlainEngine, dies_at: int | None = None, **more: Any):
        """Returns: the result, and the reported events. Dies before the given step."""
        events: list[dict[str, Any]] = []
        step = trial_module.train_step

        def dying(engine, packed_batches, number, rate):
            if number == dies_at:
                raise Killed
            return step(engine, packed_batches, number, rate)

        def measured(parts):
            # Looks at the weights, as a real evaluation does.
            return {f"{part}/score": float(weights(engine).abs().sum()) + len(part) for part in parts}

        at_rungs = AtRungs(measured, self.decide, lambda rung: engine.events.append(("save", rung)))
        reference = {item.id: (-1.0,) * len(item.answer) for item in DATA.forget}
        checkpoints = checkpoints_of(engine, self.job(**more), events.append)
        try:
            with pytest.MonkeyPatch.context() as patch:
                if dies_at is not None:
                    patch.setattr(trial_module, "train_step", dying)
                return (
                    run_trial(engine, self.trial, DATA, reference, at_rungs, events.append, checkpoints),
                    events,
                )
        except Killed:
            return None, events


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The trial as it is without checkpoints. Only to be looked at."""
    stage = Stage(tmp_path_factory.mktemp("plain") / "none")
    engine = stage.engine()
    result, events = stage.run(engine, checkpoint=None)
    return result, events, weights(engine)


def weights(engine):
    return torch.cat([parameter.detach().flatten() for parameter in engine.policy.parameters()])


def reported(events):
    return [event for event in events if event["event"] in ("rung", "test")]


def lines(events):
    """What the log says about checkpoints."""
    return [
        event["line"] for event in events if event["event"] == "log" and not event["line"].startswith("step ")
    ]


def steps(home):
    return sorted(path.name for path in home.iterdir()) if home.exists() else []


def test_checkpoints_change_nothing_and_the_newest_outlives_the_trial(stage, plain):
    engine = stage.engine()
    result, events = stage.run(engine)
    assert torch.equal(weights(engine), plain[2])
    assert (result.metrics, reported(events), lines(events)) == (plain[0].metrics, reported(plain[1]), [])
    assert steps(stage.home) == ["step6"]
    assert set(result.seconds) == {*PHASES, "checkpoints"}


KILLED = [(1, 3, None), (3, 3, 3), (5, 3, 3), (6, 2, 6), (7, 4, 4), (7, 1, 7), (7, 50, None)]


@pytest.mark.parametrize(
    ("dies_at", "every", "goes_on", "warm"),
    [
        *((*case, False) for case in KILLED),
        *(pytest.param(*case, True, marks=[] if case == (5, 3, 3) else pytest.mark.soak) for case in KILLED),
    ],
)
def test_killed_trial_goes_on_as_if_nothing_had_happened(stage, plain, dies_at, every, goes_on, warm):
    stage.every, engine = every, stage.engine()
    assert stage.run(engine, dies_at)[0] is None
    if warm:  # another trial has had the lane meanwhile
        Stage(stage.home.parent / "other", seed=7).run(engine)
    else:
        engine = stage.engine()
    engine.rates = []
    result, events = stage.run(engine)
    assert torch.equal(weights(engine), plain[2])
    assert (result.metrics, reported(events)) == (plain[0].metrics, reported(plain[1]))
    assert lines(events) == ([] if goes_on is None else [f"goes on at step {goes_on} of 8"])
    assert len(engine.rates) == 8 - (goes_on or 0)


def test_trial_that_is_killed_again_and_again_arrives(stage, plain):
    stage.every = 1
    for dies_at in range(1, 8):
        assert stage.run(stage.engine(), dies_at)[0] is None
    engine = stage.engine()
    result, events = stage.run(engine)
    assert torch.equal(weights(engine), plain[2])
    assert (result.metrics, reported(events)) == (plain[0].metrics, reported(plain[1]))


def test_dual_variable_goes_on_from_where_it_was(tmp_path):
    whole, killed = (
        Stage(tmp_path / name, forget={"method": "pdu"}, beliefs="sequence") for name in ("whole", "killed")
    )
    engine = whole.engine()
    expected, _ = whole.run(engine, checkpoint=None)
    killed.run(killed.engine(), 5)
    other = killed.engine()
    result, _ = killed.run(other)
    assert result.metrics == expected.metrics
    assert torch.equal(weights(other), weights(engine))


def test_beliefs_of_the_current_refresh_are_not_sampled_again(stage, monkeypatch):
    stage.run(stage.engine(), 7)
    monkeypatch.delattr(trial_module, "sample_beliefs")
    assert stage.run(stage.engine())[0] is not None


@pytest.mark.parametrize("refused", [None, 0, 1])
def test_ranks_go_on_together_or_not_at_all(stage, refused, monkeypatch):
    stage.decide = lambda rung, rungs: ON
    together = threading.Lock()

    def work(dies_at=None, **more):
        def run(engine):
            engine.tokenizer = Tokenizer()
            return stage.run(engine, dies_at, **more)

        return run

    def ranks(*args, **more):
        return run_ranks(random_llama(layers=1), 2, work(*args, **more))

    # The dying step is the same for both threads, so it is put in place once.
    step = trial_module.train_step

    def dying(engine, packed_batches, number, rate):
        with together:
            if number == 5:
                raise Killed
        return step(engine, packed_batches, number, rate)

    _, plain_engines = ranks(checkpoint=None)
    with monkeypatch.context() as patch:
        patch.setattr(trial_module, "train_step", dying)
        ranks()
    assert steps(stage.home) == ["step3"]
    if refused is not None:
        (stage.home / "step3" / f"rank{refused}.pt").write_bytes(b"torn")
    results, engines = ranks()
    for engine, other in zip(engines, plain_engines, strict=True):
        assert torch.equal(weights(engine), weights(other))
    assert [engine.events.count("restore") for engine in engines] == [refused is None] * 2
    torn = (
        f"the checkpoint after step 3 is ignored: it is torn: rank{refused}.pt is not the one that was"
        " written"
    )
    assert lines(results[0][1]) == ["goes on at step 3 of 8" if refused is None else torn]
    assert results[1][1] == []


CHANGES = {
    "settings": lambda stage: setattr(stage, "trial", stage.trial.model_copy(update={"seed": 1})),
    "workers": lambda stage: None,
    "torch": lambda stage: None,
    "format": lambda stage: None,
}


@pytest.mark.parametrize("name", CHANGES)
def test_foreign_checkpoint_is_ignored_with_one_line_and_removed(stage, name, monkeypatch):
    stage.run(stage.engine(), 5)
    CHANGES[name](stage)
    if name == "torch":
        version = module.version
        monkeypatch.setattr(
            module, "version", lambda library: "9.9" if library == "torch" else version(library)
        )
    if name == "format":
        monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    if name == "workers":
        key = module.checkpoint_key
        monkeypatch.setattr(module, "checkpoint_key", lambda engine, job: key(engine, job) | {"workers": 4})
    fresh, engine = stage.engine(), stage.engine()
    expected, _ = stage.run(fresh, checkpoint=None)
    result, events = stage.run(engine, 3)
    assert result is None and len(lines(events)) == 1
    assert lines(events)[0].startswith(f"the checkpoint after step 3 is ignored: it was written with {name} ")
    assert steps(stage.home) == ["step3"]  # its own
    assert stage.run(engine)[0].metrics == expected.metrics
    assert torch.equal(weights(engine), weights(fresh))


def test_shared_file_of_another_shape_is_ignored(stage, plain):
    for body in ("{}", '{"digests": []}', '{"digests": [], "key": 3}', "[]", "\x00"):
        (stage.home / "step3").mkdir(parents=True)
        (stage.home / "step3" / "shared.json").write_text(body)
        engine = stage.engine()
        result, events = stage.run(engine, 1)
        assert result is None and len(lines(events)) == 1 and steps(stage.home) == []
        assert lines(events)[0].startswith("the checkpoint after step 3 is ignored: it is torn: ")


def test_driver_that_lost_the_rungs_gets_them_again_and_decides_again(stage):
    _, first = stage.run(stage.engine(), 7)
    decided: list[int] = []
    stage.decide = lambda rung, rungs: decided.append(rung) or RungDecision(keep=rung == 2)
    _, events = stage.run(stage.engine())
    assert decided == [1, 2, 3, 4]
    assert reported(events)[:4] == reported(first) and [event["event"] for event in reported(events)] == [
        "rung",
        "rung",
        "test",
        "rung",
        "rung",
    ]
    assert events[:5] == [*reported(first), {"event": "log", "line": "goes on at step 6 of 8"}]


def test_test_part_is_reported_again_only_of_rungs_that_are_still_to_be_kept(stage):
    stage.run(stage.engine(), 7)
    stage.decide = lambda rung, rungs: ON
    _, events = stage.run(stage.engine())
    assert [event["event"] for event in reported(events)] == ["rung"] * 4
    assert lines(events) == ["goes on at step 6 of 8"]


def test_rung_that_is_to_be_kept_unlike_before_needs_the_whole_way(stage):
    """Its weights were not written then."""
    stage.run(stage.engine(), 7)
    stage.decide = lambda rung, rungs: KEEP
    engine, other = stage.engine(), stage.engine()
    result, events = stage.run(engine)
    assert lines(events) == ["rung 1 must now be kept but its weights were dropped: restarting from step 0"]
    assert [event[1] for event in engine.events if event[0] == "save"] == [1, 2, 3, 4]
    assert result.metrics == stage.run(other, checkpoint=None)[0].metrics
    assert torch.equal(weights(engine), weights(other))


def test_trial_that_is_stopped_at_a_rung_it_had_passed_ends_with_what_it_had_there(stage):
    stage.run(stage.engine(), 7)
    stage.decide = lambda rung, rungs: STOP if rung == 2 else ON
    engine, other = stage.engine(), stage.engine()
    result, events = stage.run(engine)
    expected, expected_events = stage.run(other, checkpoint=None)
    assert (result.metrics, result.stopped) == (expected.metrics, expected.stopped)
    assert reported(events) == reported(expected_events)
    assert engine.rates == []


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")], ids=repr
)
def test_disk_that_refuses_costs_the_checkpoint_and_not_the_trial(stage, plain, error, monkeypatch):
    def refuse(partial, rank, tensors):
        partial.mkdir(parents=True)
        raise error

    write = module.write_rank
    monkeypatch.setattr(
        module,
        "write_rank",
        lambda partial, *args: (refuse if "step6" in partial.name else write)(partial, *args),
    )
    engine = stage.engine()
    result, events = stage.run(engine)
    assert result.metrics == plain[0].metrics
    assert lines(events) == [
        f"the checkpoint after step 6 was not written: {getattr(error, 'strerror', None) or error}"
    ]
    assert steps(stage.home) == ["step3"]


def test_rename_that_is_refused_costs_the_checkpoint_and_not_the_trial(stage, monkeypatch):
    def refuse(*args):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(module, "seal", refuse)
    result, events = stage.run(stage.engine())
    assert result is not None and steps(stage.home) == []
    assert lines(events) == [
        f"the checkpoint after step {step} was not written: Disk quota exceeded" for step in (3, 6)
    ]


def test_what_a_killed_writer_left_is_swept_at_the_next_start(stage):
    (stage.home / "step3.dead.partial").mkdir(parents=True)
    _, events = stage.run(stage.engine(), 1)
    assert steps(stage.home) == [] and lines(events) == []


def test_time_before_the_checkpoint_counts_as_it_was_measured(stage):
    stage.run(stage.engine(), 7)
    checkpoints = checkpoints_of(stage.engine(), stage.job(), print)
    before = checkpoints.find().state.seconds
    result, _ = stage.run(stage.engine())
    assert all(result.seconds[phase] >= before[phase] > 0 for phase in ("steps", "beliefs", "evaluation"))


def test_no_checkpoints_by_default(stage):
    for off in ({"checkpoint": None}, {"checkpoint_steps": 0}):
        assert checkpoints_of(stage.engine(), stage.job(**off), print) is None


def test_key_is_that_of_the_trial_wherever_it_is_written(stage):
    engine = stage.engine()
    key = checkpoint_key(engine, stage.job())
    assert checkpoint_key(engine, stage.job(weights="/w", checkpoint="/c", checkpoint_steps=9)) == key
    assert checkpoint_key(engine, stage.job(trial_id="t0001")) != key
    assert {"torch", "deepspeed", "transformers", "workers", "threads", "device", "shards"} <= key.keys()
