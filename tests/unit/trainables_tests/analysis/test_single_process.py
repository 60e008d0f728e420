from search_spaces.settings.trial_settings import EngineSettings
from tests.support.training.plain_engine import random_examples, random_llama
from trainables.analysis.single_process import SingleProcessModel
from trainables.generation.inference import answer_logps, inference


def test_sweep_in_lockstep_is_analysed_like_any_other():
    """`lethe dynamics` once ended with an AttributeError for sweeps with `engine.inference: lockstep`."""
    engine = SingleProcessModel(random_llama(), tokenizer=None)
    examples = random_examples("forget", [(2, 3), (3, 1)], seed=1)
    found = []
    for way in ("gathered", "lockstep"):
        with inference(engine, EngineSettings(inference=way)) as model:
            found.append(answer_logps(model, examples, at_most=len(examples)))
    assert found[0] == found[1] and [len(logps) for logps in found[0]] == [3, 1]
