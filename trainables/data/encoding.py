"""Encodes text as token ids, with the exact border between prompt and answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from search_spaces.user_errors import UserError
from trainables.data.examples import Example

# Llama 3's template writes today's date unless one is given, and results would change overnight. This date is
# that of the published evaluations. `enable_thinking` keeps Qwen 3 from thinking before it answers.
TEMPLATE_OPTIONS = {"date_string": "10 Apr 2025", "enable_thinking": False}


@dataclass(frozen=True)
class Encoded:
    """A tokenised example. The answer is `ids[prompt_length:]`, its end token included."""

    id: str
    """Id of the example."""
    ids: tuple[int, ...]
    """Token ids of prompt and answer."""
    prompt_length: int
    """Number of prompt tokens, at least one."""
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
    """Encode an example, with its own response or with another one."""
    response = example.response if response is None else response
    ids, prompt_length = (encode_plain if example.plain else encode)(tokenizer, example.prompt, response)
    return Encoded(example.id, ids, prompt_length, ended=not example.plain)


def encode_question(tokenizer: PreTrainedTokenizerBase, example: Example) -> tuple[int, ...]:
    """Encode an example's prompt up to the first answer token."""
    return (
        plain_ids(tokenizer, _with_instruction(tokenizer, example.prompt))
        if example.plain
        else encode_prompt(tokenizer, example.prompt)
    )


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> tuple[tuple[int, ...], int]:
    """Encode a prompt with its response.

    The whole conversation is tokenised at once, as in training of chat models. Where its ids do not begin
    with those of the prompt alone (a merge across the border, a template that rewrites it), the response is
    tokenised apart, so that the prompt is always the one that generation starts from.

    Args:
        tokenizer: A tokenizer with a chat template, or without one (then `Question: ... Answer: ...`).
        prompt: The user's turn.
        response: The assistant's turn; an empty one becomes the end token alone.

    Returns:
        The ids, ending with the end token, and the number of prompt ids (at least one).
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    if tokenizer.chat_template:
        turns = [*_prompt_turns(tokenizer, prompt), {"role": "assistant", "content": response}]
        whole = _template_ids(tokenizer, turns, add_generation_prompt=False)
    else:
        # An empty response would leave a space behind "Answer:", which may be a token of its own.
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
    """Encode a prompt up to the first answer token."""
    if tokenizer.chat_template:
        return _template_ids(tokenizer, _prompt_turns(tokenizer, prompt), add_generation_prompt=True)
    ids = tuple(tokenizer(_plain_prompt(tokenizer, prompt))["input_ids"])
    # A tokenizer that appends an end token to every text would end the answer before its
    # start.
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def encode_plain(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> tuple[tuple[int, ...], int]:
    """Encode running text without a template and, since it may be cut anywhere, without an end token.

    Args:
        tokenizer: Any tokenizer.
        prompt: Text that is given; may be empty.
        text: Text that follows it, with the space between the two.

    Returns:
        The ids and the number of prompt ids, which is at least one: the begin token, which is never
        predicted.

    Source: OU's pretraining data. Deviation: where the tokenizer writes no begin token, OU leaves the first
    token of the text unscored; here one is put in front (see `plain_ids`), so that a text of one token can be
    scored too.
    """
    prompt = _with_instruction(tokenizer, prompt)
    prompt_ids, whole = plain_ids(tokenizer, prompt), plain_ids(tokenizer, prompt + text)
    # A merge across the border would leave no token at which the answer begins.
    if whole[: len(prompt_ids)] != prompt_ids:
        whole = prompt_ids + tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return whole, len(prompt_ids)


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Encode running text behind a begin token, or behind an end token for tokenizers without one."""
    ids = tuple(tokenizer(text)["input_ids"])
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]  # appended by the tokenizer itself
    # Models without a begin token are trained on texts that follow the end token of the text before.
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    # A tokenizer with neither token still has the end of turn of its chat template.
    if begin is None:
        begin = min(end_ids(tokenizer))
    return ids if ids[:1] == (begin,) else (int(begin), *ids)


def end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens that end an answer: the end of text, and the chat template's end of turn.

    Raises:
        UserError: The tokenizer has neither.
    """
    # Cached on the tokenizer, since every encoded example needs them; the template is cached along, since it
    # may be replaced.
    template, ends = getattr(tokenizer, "_lethe_end_ids", (None, frozenset[int]()))
    if not ends or template != tokenizer.chat_template:
        turn = _turn_end_id(tokenizer)
        ends = frozenset(int(token) for token in (tokenizer.eos_token_id, turn) if token is not None)
        if not ends:
            raise UserError(
                "the tokenizer has no end token, so answers would have no end",
                key="model",
                remedy="set eos_token in its config",
            )
        tokenizer._lethe_end_ids = (tokenizer.chat_template, ends)
    return ends


def _ended(tokenizer: PreTrainedTokenizerBase, answer: tuple[int, ...]) -> tuple[int, ...]:
    """Cut the answer behind its last end token (templates may write a line break after it), or append one."""
    ends = end_ids(tokenizer)
    last = max((position for position, token in enumerate(answer) if token in ends), default=None)
    if last is not None:
        return answer[: last + 1]
    turn = _turn_end_id(tokenizer) if tokenizer.chat_template else None
    # A template that writes no end at all: the answer must still have one, or generation would never learn to
    # stop.
    return (*answer, int(tokenizer.eos_token_id if turn is None else turn))


def _turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the special token that the chat template writes after an assistant's turn; None without one."""
    if not tokenizer.chat_template:
        return None
    # Found by rendering a conversation: no field of a tokenizer names this token.
    turns = _prompt_turns(tokenizer, "a")
    prompt_ids = _template_ids(tokenizer, turns, add_generation_prompt=True)
    whole = _template_ids(
        tokenizer, [*turns, {"role": "assistant", "content": "b"}], add_generation_prompt=False
    )
    special = [token for token in whole[len(prompt_ids) :] if token in tokenizer.all_special_ids]
    return special[0] if special else None


def set_system_prompt(tokenizer: PreTrainedTokenizerBase, system: str | None) -> None:
    """Open every conversation that this tokenizer encodes with a system prompt; with None, without one.

    The prompt is stored on the tokenizer, because training, beliefs and all metrics must encode alike.
    Tokenizers without a chat template ignore it.
    """
    tokenizer._lethe_system_prompt = system


@contextmanager
def instructed(tokenizer: PreTrainedTokenizerBase, instruction: str | None) -> Iterator[None]:
    """Put an instruction in front of every prompt while the context is open; None changes nothing.

    The instruction goes in front of the prompt and not into the system turn, which some chat templates
    refuse. Text without a prompt is unchanged, since it has no question to put it before.
    """
    tokenizer._lethe_instruction = instruction
    try:
        yield
    finally:
        tokenizer._lethe_instruction = None


def prompt_settings(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, ...]:
    """Return the settings that a prompt's token ids depend on beside its text; caches of ids compare them."""
    names = ("_lethe_system_prompt", "_lethe_instruction", "chat_template")
    return tuple(getattr(tokenizer, name, None) for name in names)


def _with_instruction(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    instruction = getattr(tokenizer, "_lethe_instruction", None)
    return prompt if instruction is None or not prompt else f"{instruction}\n\n{prompt}"


def _prompt_turns(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[dict[str, str]]:
    system = getattr(tokenizer, "_lethe_system_prompt", None)
    opening = [] if system is None else [{"role": "system", "content": system}]
    return [*opening, {"role": "user", "content": _with_instruction(tokenizer, prompt)}]


def _template_ids(
    tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, add_generation_prompt: bool
) -> tuple[int, ...]:
    options: dict[str, Any] = TEMPLATE_OPTIONS
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt, **options
    )
    # The template has written the begin token already, and a second one would shift all positions.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _plain_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    return f"Question: {_with_instruction(tokenizer, prompt)}\nAnswer:"
