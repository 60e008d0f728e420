"""Running text as examples: pieces of a corpus without a prompt.

Lengths are in characters, not in tokens, since the driver counts examples and steps, and prints plans,
without loading a tokenizer.
"""

from collections.abc import Iterable, Sequence

from trainables.data.examples import Example

BETWEEN_TEXTS = "\n\n"


def chunks(name: str, texts: Iterable[str], size: int) -> list[Example]:
    """Join the texts of a corpus and cut them into training examples.

    Args:
        name: Prefix of the ids.
        texts: Documents in their order.
        size: Largest number of characters per example.

    Source: OU's pretraining data, which is cut by number of tokens. Deviation: cut at spaces, so that no word
    is split.
    """
    pieces = cut(BETWEEN_TEXTS.join(texts), size)
    return [text_example(f"{name}/{number}", piece) for number, piece in enumerate(pieces)]


def beginnings(name: str, texts: Sequence[str], size: int) -> list[Example]:
    """Make one example of the first piece of each text."""
    return [text_example(f"{name}/{number}", cut(text, size)[0]) for number, text in enumerate(texts)]


def text_example(example_id: str, text: str) -> Example:
    """Make an example without a prompt: the whole text is the response, behind the begin token."""
    return Example(example_id, "", text, plain=True)


def cut(text: str, size: int) -> list[str]:
    """Cut a text into pieces of at most `size` characters, each as long as possible without splitting a word.

    A word longer than `size` is split. Pieces are stripped, and blank ones left out.

    >>> cut("The cat sat. Abracadabra!", 8)
    ['The cat', 'sat.', 'Abracada', 'bra!']
    """
    pieces = []
    start = 0
    while start < len(text):
        end = start + size
        # The cut falls inside a word: it moves back to the last space, or stays if the word alone fills the
        # piece.
        if end < len(text) and not text[end].isspace():
            end = _last_space(text, start, end) or end
        pieces.append(text[start:end].strip())
        start = end
        # White space at the cut belongs to neither piece.
        while start < len(text) and text[start].isspace():
            start += 1
    return [piece for piece in pieces if piece]


def _last_space(text: str, start: int, end: int) -> int | None:
    """Return the index of the last space after the first character of `text[start:end]`; None without one."""
    return next((place for place in range(end - 1, start, -1) if text[place].isspace()), None)
