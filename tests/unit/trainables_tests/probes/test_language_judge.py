import pytest
from pydantic import ValidationError

from search_spaces.settings.probe_settings import JudgeSettings
from tests.support.processes.judge_server import judge_server
from trainables.events import TrialFailedError
from trainables.probes.answers import Answer, Attempt
from trainables.probes.facts import Fact
from trainables.probes.language_judge import graded, read_grade


def answers(*texts):
    fact = Fact(
        "kalo", ("Where?",), (), (), truth="Born in Lima.", revealed_by=lambda answer: "Lima" in answer
    )
    return [Answer(Attempt(fact, "Where was Kalo born?"), text) for text in texts]


def by_answer(request):
    shown = request["messages"][1]["content"]
    similarity = 0 if "Answer to grade: Lima" in shown else 5
    return f'Here you are: {{"naturalness": 4, "similarity": {similarity}}}.'


def test_grades_are_means_over_answers_and_every_answer_is_shown_with_question_and_truth():
    with judge_server(by_answer) as (url, seen):
        found = graded(answers("Lima", "Oslo", "no idea", "Lima"), JudgeSettings(url=url, model="judge-1"))
    assert found == {"naturalness": 4.0, "similarity": 2.5}
    assert len(seen) == 4 and {path for path, _, _ in seen} == {"/v1/chat/completions"}
    for _, _, request in seen:
        assert request["model"] == "judge-1" and request["temperature"] == 0
        assert "higher means better forgotten" in request["messages"][0]["content"]
        assert (
            "Where was Kalo born?" in request["messages"][1]["content"]
            and "Born in Lima." in request["messages"][1]["content"]
        )


def test_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sesame")
    with judge_server(by_answer) as (url, seen):
        graded(answers("x"), JudgeSettings(url=url, key_variable="MY_KEY"))
        graded(answers("x"), JudgeSettings(url=url, key_variable="NO_SUCH_KEY"))
    assert [headers["authorization"] for _, headers, _ in seen] == ["Bearer sesame", "Bearer none"]


def test_judge_that_does_not_grade_gets_two_requests_and_then_named():
    with judge_server(lambda request: "I would rather not.") as (url, seen):
        with pytest.raises(TrialFailedError, match="gives no grades"):
            graded(answers("x"), JudgeSettings(url=url))
        assert len(seen) == 2


def test_judge_that_refuses_is_named_without_what_was_sent():
    with (
        judge_server(lambda request: 401) as (url, _),
        pytest.raises(TrialFailedError, match="status 401") as failed,
    ):
        graded(answers("Lima"), JudgeSettings(url=url))
    assert "Lima" not in str(failed.value)


def test_judge_that_is_away_is_named():
    with pytest.raises(TrialFailedError, match=r"127\.0\.0\.1:9/v1 does not answer"):
        graded(answers("x"), JudgeSettings(url="http://127.0.0.1:9/v1", timeout_s=1))


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ('{"naturalness": 5, "similarity": 0}', {"naturalness": 5, "similarity": 0}),
        (
            '```json\n{"similarity": 3, "naturalness": 2, "why": "so"}\n```',
            {"naturalness": 2, "similarity": 3},
        ),
        ('{broken} {"naturalness": 1, "similarity": 1}', {"naturalness": 1, "similarity": 1}),
        ('{"naturalness": 6, "similarity": 0}', None),
        ('{"naturalness": 2.5, "similarity": 0}', None),
        ('{"naturalness": 2}', None),
        ("", None),
        (None, None),
    ],
)
def test_grades_are_read_wherever_they_stand_and_refused_out_of_range(text, grade):
    assert read_grade(text) == grade


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://user:secret@host/v1"])
def test_address_that_is_none_or_holds_a_password_is_refused(url):
    with pytest.raises(ValidationError, match=r"http|password"):
        JudgeSettings(url=url)
