"""From text to token ids, with the border between prompt and answer known exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from search_spaces.user_errors import UserError
from trainables.data.examples import Example

# Llama 3's template writes today's date unless it is given one: results would change overnight. This is the
# published evaluations' date.
TEMPLATE_OPTIONS = {"date_string": "10 Apr 2025", "enable_thinking": False}


@dataclass(frozen=True)
class Encoded:
    """A tokenised example. The answer is `ids[prompt_length:]`, its end token included."""

    id: str
    ids: tuple[int, ...]
    prompt_length: int
    ended: bool = True
    """Whether the last id is an end token; running text has none."""

    @property
    def answer(self) -> tuple[int, ...]:
        """The answer tokens, end token included."""
        return self.ids[self.prompt_length :]

    @property
    def content(self) -> tuple[int, ...]:
        """The answer tokens without an end token."""
        return self.answer[:-1] if self.ended else self.answer


def encode_example(
    tokenizer: PreTrainedTokenizerBase, example: Example, response: str | None = None
) -> Encoded:
    """Token ids of an example, with another response in place of its own where one is given."""
    response = example.response if response is None else response
    ids, prompt_length = (encode_plain if example.plain else encode)(tokenizer, example.prompt, response)
    return Encoded(example.id, ids, prompt_length, ended=not example.plain)


def encode_question(tokenizer: PreTrainedTokenizerBase, example: Example) -> tuple[int, ...]:
    """Token ids of an example's prompt, ready for the first answer token."""
    return (
        plain_ids(tokenizer, _asked(tokenizer, example.prompt))
        if example.plain
        else encode_prompt(tokenizer, example.prompt)
    )


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> tuple[tuple[int, ...], int]:
    """Token ids of a prompt with its response, and the length of the prompt.

    The whole conversation is tokenised at once, as in training of chat models. Where its ids do not begin
    with those of the prompt alone (a merge across the border, a template that rewrites it), the response is
    tokenised apart, so that the prompt is always the one that generation starts from.

    Args:
        tokenizer: With a chat template, or plain (then `Question: ... Answer: ...`).
        prompt: The user's turn.
        response: The assistant's turn; an empty one is the end token alone.

    Returns:
        The ids, ending with the end token, and the number of prompt ids (at least one).
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    if tokenizer.chat_template:
        turns = [*_prompt_turns(tokenizer, prompt), {"role": "assistant", "content": response}]
        whole = _template_ids(tokenizer, turns, add_generation_prompt=False)
    else:
        whole = (
            tuple(tokenizer(_plain_prompt(tokenizer, prompt) + " " + response)["input_ids"])
            if response
            else prompt_ids
        )
    if whole[: len(prompt_ids)] == prompt_ids:
        answer = whole[len(prompt_ids) :]
    else:
        answer = tuple(tokenizer(response, add_special_tokens=False)["input_ids"])
    return prompt_ids + _ended(tokenizer, answer), len(prompt_ids)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """Token ids of a prompt, ready for the first answer token."""
    if tokenizer.chat_template:
        return _template_ids(tokenizer, _prompt_turns(tokenizer, prompt), add_generation_prompt=True)
    ids = tuple(tokenizer(_plain_prompt(tokenizer, prompt))["input_ids"])
    # A tokenizer that closes every text by itself would put the end of the answer before its start.
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def encode_plain(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> tuple[tuple[int, ...], int]:
    """Token ids of running text: no template, and no end token, since a piece of text does not end where it
    was cut.

    Args:
        tokenizer: Any.
        prompt: What is given; may be empty.
        text: What follows it, with the space between them.

    Returns:
        The ids and the number of prompt ids: at least one, the begin token, which nothing predicts.

    Source: OU's pretraining data. Deviation: where the tokenizer writes no begin token, OU leaves the first
    token of the text unscored; here one stands in front (see `plain_ids`), so that a text of one token can be
    scored too.
    """
    prompt = _asked(tokenizer, prompt)
    prompt_ids, whole = plain_ids(tokenizer, prompt), plain_ids(tokenizer, prompt + text)
    if whole[: len(prompt_ids)] != prompt_ids:
        whole = prompt_ids + tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return whole, len(prompt_ids)


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of running text behind a begin token, or the end token (of the text before it) where the
    tokenizer has none."""
    ids = tuple(tokenizer(text)["input_ids"])
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]  # written by the tokenizer itself
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        begin = min(end_ids(tokenizer))
    return ids if ids[:1] == (begin,) else (int(begin), *ids)


def end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer: the end of text, and the end of turn that the chat template writes.

    Raises:
        UserError: The tokenizer has neither.
    """
    # Memoised on the tokenizer, since every encoded example asks; with the template, which may be replaced.
    template, known = getattr(tokenizer, "_lethe_end_ids", (None, frozenset[int]()))
    if not known or template != tokenizer.chat_template:
        turn = _turn_end_id(tokenizer)
        known = frozenset(int(token) for token in (tokenizer.eos_token_id, turn) if token is not None)
        if not known:
            raise UserError(
                "the tokenizer has no end token, so answers would have no end",
                key="model",
                remedy="set eos_token in its config",
            )
        tokenizer._lethe_end_ids = (tokenizer.chat_template, known)
    return known


def _ended(tokenizer: PreTrainedTokenizerBase, answer: tuple[int, ...]) -> tuple[int, ...]:
    """The answer up to its last end token (templates may write a line break after it), or with one added."""
    ends = end_ids(tokenizer)
    last = max((position for position, token in enumerate(answer) if token in ends), default=None)
    if last is not None:
        return answer[: last + 1]
    turn = _turn_end_id(tokenizer) if tokenizer.chat_template else None
    return (*answer, int(tokenizer.eos_token_id if turn is None else turn))


def _turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes after an assistant's turn; None without one."""
    if not tokenizer.chat_template:
        return None
    turns = _prompt_turns(tokenizer, "a")
    prompt_ids = _template_ids(tokenizer, turns, add_generation_prompt=True)
    whole = _template_ids(
        tokenizer, [*turns, {"role": "assistant", "content": "b"}], add_generation_prompt=False
    )
    special = [token for token in whole[len(prompt_ids) :] if token in tokenizer.all_special_ids]
    return special[0] if special else None


def set_system_prompt(tokenizer: PreTrainedTokenizerBase, system: str | None) -> None:
    """Open every conversation that this tokenizer encodes with a system prompt; None: without one. Plain
    tokenizers ignore it.

    Part of the tokenizer, because training, beliefs and every metric must encode alike.
    """
    tokenizer._lethe_system_prompt = system


@contextmanager
def instructed(tokenizer: PreTrainedTokenizerBase, instruction: str | None) -> Iterator[None]:
    """Put an instruction in front of every prompt that this tokenizer encodes meanwhile; None: leave them as
    they are.

    In front of the prompt and not in the system's turn, which some chat templates refuse. Text without a
    prompt is left alone: nobody is asked anything.
    """
    tokenizer._lethe_instruction = instruction
    try:
        yield
    finally:
        tokenizer._lethe_instruction = None


def prompt_settings(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, ...]:
    """What decides, beside its text, how a prompt is encoded: whoever keeps token ids keeps this with
    them."""
    names = ("_lethe_system_prompt", "_lethe_instruction", "chat_template")
    return tuple(getattr(tokenizer, name, None) for name in names)


def _asked(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    instruction = getattr(tokenizer, "_lethe_instruction", None)
    return prompt if instruction is None or not prompt else f"{instruction}\n\n{prompt}"


def _prompt_turns(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[dict[str, str]]:
    system = getattr(tokenizer, "_lethe_system_prompt", None)
    opening = [] if system is None else [{"role": "system", "content": system}]
    return [*opening, {"role": "user", "content": _asked(tokenizer, prompt)}]


def _template_ids(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, add_generation_prompt: bool
) -> tuple[int, ...]:
    options: dict[str, Any] = TEMPLATE_OPTIONS
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt, **options
    )
    # The template has written the begin token already.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    return f"Question: {_asked(tokenizer, prompt)}\nAnswer:"
