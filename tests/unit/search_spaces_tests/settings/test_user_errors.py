import pickle

from search_spaces.user_errors import UserError, did_you_mean


def test_user_error_is_one_sentence_with_file_key_value_hint_and_allowed():
    error = UserError(
        f"unknown key.{did_you_mean('top_kk', ['weight', 'top_k'])}",
        file="a.yaml",
        key="trial.top_kk",
        value=5,
        allowed="weight, top_k",
    )
    assert (
        str(error)
        == 'a.yaml: trial.top_kk: unknown key (given: 5). Did you mean "top_k"? Allowed: weight, top_k.'
    )


def test_user_error_leaves_out_what_is_not_known():
    assert str(UserError("the disk is full", remedy="make room")) == "the disk is full. Make room."


def test_user_error_shows_values_as_in_yaml_and_cuts_long_ones():
    assert "(given: true)" in str(UserError("no", value=True))
    assert len(str(UserError("no", value="x" * 1000))) < 150


def test_user_error_survives_pickling():
    error = UserError("no", file="a.yaml", key="k", value=[1], allowed="x", remedy="y")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_joined_keeps_the_fields_of_a_single_problem():
    error = UserError.joined([UserError("no", key="k", value=1)], "a.yaml")
    assert (error.file, error.key, error.value, str(error)) == ("a.yaml", "k", 1, "a.yaml: k: no (given: 1).")


def test_joined_lists_every_problem_and_names_other_files():
    text = str(
        UserError.joined([UserError("one", key="k"), UserError("two", file="b.jsonl, line 3")], "a.yaml")
    )
    assert text.startswith("a.yaml: 2 problems:\n  - k: one.\n  - b.jsonl, line 3: two.")


def test_in_file_does_not_replace_a_file():
    assert str(UserError("no", file="b.jsonl").in_file("a.yaml")) == "b.jsonl: no."
    assert str(UserError("no").in_file("a.yaml")) == "a.yaml: no."


def test_did_you_mean_finds_the_nearest_word_whatever_its_case():
    assert did_you_mean("SimNpo", ["npo", "simnpo"]) == ' Did you mean "simnpo"?'


def test_did_you_mean_is_silent_when_nothing_is_near():
    assert did_you_mean("zebra", ["npo", "simnpo"]) == ""
