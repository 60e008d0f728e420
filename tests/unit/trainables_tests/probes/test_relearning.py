import pytest

from search_spaces.settings.probe_settings import RelearnSettings
from search_spaces.settings.trial_settings import TrialSettings
from tests.support.training.plain_engine import PlainEngine, random_examples, random_llama
from trainables.events import TrialFailedError
from trainables.probes.relearning import fine_tuned

EXAMPLES = random_examples("forget", [(2, 3)] * 3, seed=1)


def test_relearning_that_diverges_names_its_own_learning_rate():
    engine, settings = PlainEngine(random_llama()), RelearnSettings(learning_rate=1e30, steps=4)
    engine.reset(TrialSettings())
    with (
        pytest.raises(TrialFailedError, match=r"lower evaluation.probe.relearn.learning_rate"),
        fine_tuned(engine, EXAMPLES, settings, TrialSettings(), "policy"),
    ):
        pass
