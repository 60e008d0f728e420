import json

import pytest
from pydantic import ValidationError

from trainables.data.encoding import Encoded
from trainables.events import RungReached
from trainables.generation.sequence_beliefs import Belief
from trainables.training.trial_state import RungResult, TrialState

METRICS = {"validation/utility": 0.1 + 0.2, "train/loss": -1e-308, "validation/mass": 2**-1074}
PROGRESS = TrialState(
    step=6,
    beliefs={
        "forget/0": (
            Belief(Encoded("forget/0", (1, 2, 3), 2), (-0.1,)),
            Belief(Encoded("forget/0", (1, 2, 3), 2)),
        ),
        "forget/1": (),
    },
    rungs=[
        RungResult(
            1,
            RungReached(1, 2, METRICS, 4),
            {"test/utility": 1 / 3},
            True,
        )
    ],
    retain_weight=0.1 + 0.7,
    seconds={"steps": 1.5, "checkpoints": 0.1},
)


@pytest.mark.parametrize("state", [PROGRESS, TrialState()], ids=["whole", "empty"])
def test_progress_survives_json_bit_for_bit(state):
    read = TrialState.from_json(json.loads(json.dumps(state.to_json())))
    assert read == state
    assert repr(read) == repr(state)


def test_rung_leaves_the_metrics_of_both_parts():
    assert PROGRESS.rungs[0].metrics == METRICS | {"test/utility": 1 / 3}
    assert "test/utility" not in PROGRESS.rungs[0].event.metrics


@pytest.mark.parametrize("value", [[], {"step": "six"}, {"rungs": [{"rung": 1}]}], ids=repr)
def test_progress_of_something_else_is_refused(value):
    with pytest.raises(ValidationError):
        TrialState.from_json(value)
