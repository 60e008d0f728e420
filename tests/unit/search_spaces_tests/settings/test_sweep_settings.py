import pytest
from pydantic import ValidationError

from tests.support.sweeps.sweep_on_disk import small_sweep

JUDGED = {"probes": ["judge"], "probe": {"judge": {"url": "http://127.0.0.1:9/v1"}}}


def test_judge_is_refused_where_text_must_not_leave():
    assert small_sweep(evaluation=JUDGED).evaluation.probes == ("judge",)
    with pytest.raises(ValidationError, match="the probe `judge` sends answers"):
        small_sweep(evaluation=JUDGED, redact=True)
