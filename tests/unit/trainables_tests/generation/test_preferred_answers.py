import pytest
import torch

from search_spaces.settings.trial_settings import TrialSettings
from tests.support.training.observed_trials import PAIRS, text_data
from tests.support.training.plain_engine import PlainEngine, answer_logps, run_ranks
from trainables.data.encoding import encode
from trainables.generation.preferred_answers import UNKNOWING, preferred_answers, read_lines


def trial_of(method, seed=0, inference="gathered", **preferred):
    settings = {"method": method, "preferred": {"per_example": 3, "max_new_tokens": 4, **preferred}}
    return TrialSettings.model_validate(
        {"forget": settings, "seed": seed, "engine": {"evaluation_batch": 4, "inference": inference}}
    )


def answers_of(tiny, trial):
    return preferred_answers(PlainEngine(tiny.model, tiny.tokenizer), text_data(tiny.tokenizer), trial)


def test_methods_that_prefer_nothing_have_no_answers(tiny):
    assert answers_of(tiny, trial_of("npo")) is None


def test_answers_are_lines_of_the_list_behind_the_forget_prompt(tiny):
    store = answers_of(tiny, trial_of("dpo"))
    for index, (prompt, _) in enumerate(PAIRS):
        possible = {encode(tiny.tokenizer, prompt, line)[0] for line in UNKNOWING}
        drawn = [belief.encoded.ids for belief in store[f"forget/{index}"]]
        assert len(set(drawn)) == 3 and set(drawn) <= possible


def test_no_line_is_repeated_before_all_were_used(tiny, tmp_path):
    (tmp_path / "answers.txt").write_text("Who knows.\n\n  No idea.  \n")
    assert read_lines(str(tmp_path / "answers.txt")) == ("Who knows.", "No idea.")
    store = answers_of(tiny, trial_of("flat", answers=str(tmp_path / "answers.txt")))
    assert all(len({belief.encoded.ids for belief in group[:2]}) == 2 for group in store.values())


def test_answers_follow_the_seed_and_the_example(tiny):
    first, again, other = (answers_of(tiny, trial_of("dpo", seed)) for seed in (0, 0, 1))
    assert first == again != other
    tails = [tuple(belief.encoded.answer for belief in group) for group in first.values()]
    assert len(set(tails)) > 1


@pytest.mark.parametrize("method", ["dpo", "altpo"])
@pytest.mark.parametrize("inference", ["gathered", "lockstep"])
def test_answers_do_not_depend_on_ranks_and_are_scored_by_the_original_model(tiny, method, inference):
    def work(engine):
        with torch.no_grad():
            engine.models["policy"].lm_head.weight.mul_(0.5)
        return preferred_answers(engine, text_data(tiny.tokenizer), trial_of(method, inference=inference))

    (alone,), _ = run_ranks(tiny.model, 1, work, tiny.tokenizer)
    stores, _ = run_ranks(tiny.model, 3, work, tiny.tokenizer)
    for store in stores:
        assert {key: [belief.encoded for belief in group] for key, group in store.items()} == {
            key: [belief.encoded for belief in group] for key, group in alone.items()
        }
        for belief in (belief for group in store.values() for belief in group):
            assert belief.reference_logp_nats == pytest.approx(
                answer_logps(tiny.model, belief.encoded), rel=1e-9
            )


def test_methods_without_a_reference_score_nothing(tiny):
    assert all(
        belief.reference_logp_nats is None
        for group in answers_of(tiny, trial_of("flat")).values()
        for belief in group
    )


def test_sampled_answers_to_an_instruction_are_put_behind_the_forget_prompt(tiny):
    plain = answers_of(tiny, trial_of("altpo", temperature=0.5))
    instructed = answers_of(
        tiny, trial_of("altpo", temperature=0.5, instruction='Not "{response}": {prompt}')
    )
    assert plain.keys() == instructed.keys() and plain != instructed
    for item in text_data(tiny.tokenizer).forget:
        for belief in instructed[item.id]:
            assert belief.encoded.ids[: belief.encoded.prompt_length] == item.ids[: item.prompt_length]
            assert 1 <= len(belief.encoded.answer) <= 4


def test_instruction_without_the_prompt_is_refused():
    with pytest.raises(ValueError, match=r"needs \{prompt\}"):
        trial_of("altpo", instruction="Say something else.")
