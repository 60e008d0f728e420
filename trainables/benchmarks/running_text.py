"""Running text as examples: pieces of a corpus, each to be continued from nothing.

Lengths are in characters, not in tokens: the driver counts examples and steps, and prints plans, without
loading a tokenizer.
"""

from collections.abc import Iterable, Sequence

from trainables.data.examples import Example

BETWEEN_TEXTS = "\n\n"


def chunks(name: str, texts: Iterable[str], size: int) -> list[Example]:
    """A corpus as training examples: its texts one after the other, cut into pieces.

    Args:
        name: Start of the ids.
        texts: Documents, in their order.
        size: Most characters per example.

    Source: OU's pretraining data, which is cut after so many tokens. Deviation: cut at spaces, so that no
    word is torn.
    """
    pieces = cut(BETWEEN_TEXTS.join(texts), size)
    return [text_example(f"{name}/{number}", piece) for number, piece in enumerate(pieces)]


def beginnings(name: str, texts: Sequence[str], size: int) -> list[Example]:
    """One example for each text: its first piece."""
    return [text_example(f"{name}/{number}", cut(text, size)[0]) for number, text in enumerate(texts)]


def text_example(example_id: str, text: str) -> Example:
    """An example that is all response: what stands before it is the begin token alone."""
    return Example(example_id, "", text, plain=True)


def cut(text: str, size: int) -> list[str]:
    """Cut a text into pieces of at most `size` characters, each as long as it can be without tearing a word.

    A word longer than `size` is torn. Pieces are stripped, and those of spaces alone left out.

    >>> cut("The cat sat. Abracadabra!", 8)
    ['The cat', 'sat.', 'Abracada', 'bra!']
    """
    pieces = []
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text) and not text[end].isspace():
            end = _last_space(text, start, end) or end
        pieces.append(text[start:end].strip())
        start = end
        while start < len(text) and text[start].isspace():
            start += 1
    return [piece for piece in pieces if piece]


def _last_space(text: str, start: int, end: int) -> int | None:
    """Place of the last space after the first character of `text[start:end]`."""
    return next((place for place in range(end - 1, start, -1) if text[place].isspace()), None)
