"""Trials on a plain engine whose evaluation, decisions, saved weights and reports are recorded."""

from dataclasses import replace
from typing import Any

import torch

from search_spaces.catalogue.method_catalogue import METHODS as CATALOGUE
from search_spaces.settings.trial_settings import TrialSettings
from tests.support.training.plain_engine import answer_logps, random_examples
from trainables.benchmarks.encoded_benchmark import EncodedBenchmark, encode_examples
from trainables.data.examples import Benchmark, Example
from trainables.events import RungDecision
from trainables.training.rungs import AtRungs, alone
from trainables.training.trial import run_trial

EMPTY = Benchmark(forget=(), retain=(), target_text=(), retrained_text=(), parts={}, digest="")
PAIRS = [
    ("Where was Kalo born?", "Born in Lima."),
    ("What does Kalo do?", "Works as a baker."),
    ("Say it", "Yes"),
    ("Nothing?", ""),
]
KEPT = [("Where was Miren born?", "Born in Oslo."), ("Wo lebt Zoë?", "In Łódź, 東京 🙂.")]


def settings(**changes):
    base: dict[str, Any] = {
        "epochs": 4,
        "rungs": 2,
        "forget": {"method": "graddiff"},
        "optimizer": {"learning_rate": 1e-2, "global_batch": 3, "micro_batch": 2, "warmup_epochs": 1},
        "token_belief": {"temperature": 2.0},
        "sequence_belief": {"num_samples": 2, "max_new_tokens": 3},
        "engine": {"evaluation_batch": 4},
    }
    return TrialSettings.model_validate(
        {
            key: base.get(key, {}) | value if isinstance(value, dict) else value
            for key, value in (base | changes).items()
        }
    )


def random_data():
    return EncodedBenchmark(
        EMPTY,
        random_examples("forget", [(2, 3)] * 5, seed=1),
        random_examples("retain", [(2, 2)] * 3, seed=2),
    )


def text_data(tokenizer):
    forget, retain = (
        [Example(f"{name}/{index}", *pair) for index, pair in enumerate(pairs)]
        for name, pairs in (("forget", PAIRS), ("retain", KEPT))
    )
    return EncodedBenchmark(
        replace(EMPTY, forget=tuple(forget)),
        encode_examples(tokenizer, forget),
        encode_examples(tokenizer, retain),
    )


class Witness:
    """Replaces evaluation, disk and report, and records the calls in the engine's `events`."""

    def __init__(self, engine, values, decide):
        self.engine, self.values, self._judge = engine, values, decide
        self.events, self.parts, self.saved = [], [], {}
        self.at_rungs = AtRungs(self.evaluate, self.decide, self.save)

    def evaluate(self, parts):
        self.engine.events.append(("evaluate", *parts))
        self.parts.append(parts)
        return {
            f"{part}/score": self.values.get(f"{part}/score", float(len(self.engine.rates))) for part in parts
        }

    def decide(self, rung, rungs):
        self.engine.events.append(("judge", rung, rungs))
        return self._judge(rung, rungs)

    def save(self, rung):
        self.engine.events.append(("save", rung))
        self.saved[rung] = weights(self.engine)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def decide_in_order(*decisions):
    """A decision function that returns these decisions, one for each rung."""
    return lambda rung, rungs: decisions[rung - 1]


def rank_0_knows(engine, *decisions):
    """A decision function that decides on rank 0 and broadcasts, so all ranks must call it."""
    return lambda rung, rungs: engine.gather([decisions[rung - 1]] if engine.rank == 0 else [])[0]


FOUR = settings(steps=4, rungs=4)
"""A rung after each of four steps."""
ON, KEEP, STOP = RungDecision(), RungDecision(keep=True), RungDecision(go_on=False, reason="ranks 7 of 9")
STOP_AND_KEEP = RungDecision(go_on=False, keep=True, reason="the time is up")


def run(engine, trial, data, values=None, decide=None):
    witness = Witness(engine, values or {}, decide or alone())
    reference = {item.id: answer_logps(engine.models["pristine"], item) for item in data.forget}
    return run_trial(engine, trial, data, reference, witness.at_rungs, witness.events.append), witness


def weights(engine):
    return torch.cat([parameter.detach().flatten() for parameter in engine.policy.parameters()])


def trial_of(method, beliefs, **changes):
    optimizer = {"learning_rate": 1e-3} | changes.pop("optimizer", {})
    preferred = {"per_example": 2, "max_new_tokens": 3}
    retain = {"loss": "activations" if CATALOGUE[method].activations else "nll"}
    forget = {"method": method, "preferred": preferred}
    fixed = {"forget": forget, "retain": retain, "beliefs": beliefs, "optimizer": optimizer}
    return settings(**({"epochs": 2} | changes | fixed))
