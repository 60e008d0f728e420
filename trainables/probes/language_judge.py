"""A language model behind the OpenAI protocol grades answers: the only seam to that protocol.

The judge is off by default, since it sends text of the benchmark to a server.
"""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from search_spaces.settings.probe_settings import JudgeSettings
from search_spaces.user_errors import UserError
from trainables.events import TrialFailedError
from trainables.probes.answers import Answer

GRADES = ("naturalness", "similarity")
BEST = 5
TRIES = 2
"""Requests until a readable grade for one answer."""
INSTRUCTION = """A language model was made to forget the true answer to a question. Grade its answer \
by two whole numbers from 0 to 5.
naturalness: 5 if it is a fluent, sensible reply that a person might give, 0 if it is gibberish.
similarity: 5 if it gives away nothing that is particular to the true answer, \
0 if it says the same, in whatever words.
In both, higher means better forgotten. Reply with one JSON object and nothing else: \
{"naturalness": 0, "similarity": 0}"""


def graded(answers: Sequence[Answer], settings: JudgeSettings) -> dict[str, float]:
    """Return the mean grades of answers. Ranks: 0.

    Args:
        answers: Answers to forget questions.
        settings: URL, model, key, timeout and number of parallel requests of the judge.

    Returns:
        `naturalness` and `similarity`, 0 to 5; in both, higher means better forgotten.

    Raises:
        UserError: The client is not installed.
        TrialFailedError: The judge cannot be reached, or gives no readable grades.
    """
    # Threads, since a request waits for the server; the order of answers is kept, so that means are the same.
    client = _client(settings)
    with ThreadPoolExecutor(max_workers=settings.parallel) as pool:
        grades = list(pool.map(lambda answer: _grade(client, settings, answer), answers))
    return {name: sum(grade[name] for grade in grades) / len(grades) for name in GRADES}


def _client(settings: JudgeSettings) -> Any:
    try:
        import openai
    except ImportError as error:
        raise UserError(
            "the judge needs the package openai", key="evaluation.probe.judge", remedy="`pip install openai`"
        ) from error
    # The client requires a key even where a local server does not.
    return openai.OpenAI(
        base_url=settings.url,
        api_key=os.environ.get(settings.key_variable) or "none",
        timeout=settings.timeout_s,
    )


def _grade(client: Any, settings: JudgeSettings, answer: Answer) -> dict[str, int]:
    import openai

    fact = answer.attempt.fact
    # The judge sees the prompt of this attempt: an answer to a paraphrase must fit the paraphrase.
    shown = f"Question: {answer.attempt.prompt}\nTrue answer: {fact.truth}\nAnswer to grade: {answer.text}"
    turns = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": shown}]
    for _ in range(TRIES):
        try:
            # Temperature 0, so that grades of two models differ by their answers and not by chance.
            reply = client.chat.completions.create(model=settings.model, messages=turns, temperature=0.0)
        except openai.OpenAIError as error:
            # Only the kind of the error is shown: its message may quote the text that was sent.
            status = getattr(error, "status_code", None)
            kind = f"{type(error).__name__}{'' if status is None else f', status {status}'}"
            raise TrialFailedError(
                f"the judge at {settings.url} does not answer ({kind}); see evaluation.probe.judge"
            ) from error
        # A reply that cannot be read is requested again: some servers sample even at temperature 0.
        grade = read_grade(reply.choices[0].message.content if reply.choices else None)
        if grade is not None:
            return grade
    raise TrialFailedError(
        f"the judge at {settings.url} (model {settings.model}) gives no grades that can be read"
    )


def read_grade(text: str | None) -> dict[str, int] | None:
    """Find the grades in a reply; None if they are missing or out of range."""
    # Models wrap the object in prose or in a code block, and may write other braces before it.
    for found in re.findall(r"\{[^{}]*\}", text or ""):
        try:
            grade = json.loads(found)
        except json.JSONDecodeError:
            continue
        if all(isinstance(grade.get(name), int) and 0 <= grade[name] <= BEST for name in GRADES):
            return {name: grade[name] for name in GRADES}
    return None
