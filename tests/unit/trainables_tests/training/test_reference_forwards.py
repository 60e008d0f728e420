"""What the reference costs: nothing in a step."""

import pytest

from tests.support.training.observed_trials import PAIRS, run, settings, text_data
from tests.support.training.plain_engine import PlainEngine


@pytest.mark.parametrize("beliefs", ["none", "token"])
@pytest.mark.parametrize("method", ["npo", "tnpo", "dpo"])
def test_steps_need_no_forward_of_the_reference(tiny, method, beliefs):
    def reference_forwards(steps):
        engine = PlainEngine(tiny.model, tiny.tokenizer)
        seen = []
        # What copies the pristine model copies the hook with it.
        engine.models["pristine"].get_decoder().register_forward_pre_hook(
            lambda module, inputs: seen.append("forward")
        )
        forget = {"method": method, "preferred": {"per_example": 1}}
        run(engine, settings(steps=steps, rungs=1, forget=forget, beliefs=beliefs), text_data(tiny.tokenizer))
        assert len(engine.rates) == steps
        return len(seen) - len(PAIRS)  # the test itself asks once per forget example

    before_the_steps = reference_forwards(1)
    assert reference_forwards(6) == before_the_steps, "however many steps there are"
    assert (before_the_steps > 0) == (method == "dpo"), "preferred answers are scored once"
