"""What gpu.py measures on: Llamas of published shapes with random weights, a tokenizer, and made-up questions
and answers."""

import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.capacity.model_shapes import KNOWN, ModelShape
from trainables.data.encoding import Encoded
from trainables.data.examples import Example
from trainables.training.scratch_model import END, PAD, train_tokenizer

TINY = ModelShape("tiny", 64, 256, 2, 4, 2, 16, 4096, tied=True)
"""For a try on a CPU."""
SHAPES = {"tiny": TINY, "1b": KNOWN["llama-3.2-1b"], "8b": KNOWN["llama-3.1-8b"]}
PROMPT, ANSWER = 48, 80
"""Tokens of each prompt and of each answer in training: TOFU's longest with Llama's tokenizer and chat
template, roughly."""
WORDS = 3000
QUESTION_WORDS, ANSWER_WORDS = 14, 45


def words() -> list[str]:
    """Invented words, always the same."""
    draw = random.Random(0)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    return sorted({"".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(WORDS)})


def tokenizer() -> PreTrainedTokenizerFast:
    """One that knows the invented words."""
    return train_tokenizer([" " + word for word in words()], 4096)


def write_model(shape: ModelShape, folder: Path, device: torch.device) -> None:
    """Write a bfloat16 Llama with random weights, and a tokenizer, as a Hugging Face folder."""
    fast = tokenizer()
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_size,
        max_position_embeddings=4096,
        tie_word_embeddings=shape.tied,
        pad_token_id=fast.convert_tokens_to_ids(PAD),
        eos_token_id=fast.convert_tokens_to_ids(END),
        bos_token_id=None,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:  # drawing eight billion numbers takes minutes on a CPU
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def encoded(count: int, shape: ModelShape, name: str) -> list[Encoded]:
    """Sequences of random tokens, all of one length."""
    generator = torch.Generator().manual_seed(len(name))
    ids = torch.randint(4, shape.vocabulary, (count, PROMPT + ANSWER), generator=generator).tolist()
    return [Encoded(f"{name}{number}", tuple(row), PROMPT) for number, row in enumerate(ids)]


def examples(count: int) -> tuple[Example, ...]:
    """Items with what TOFU's have: question, answer, a paraphrase and five wrong answers."""
    draw, known = random.Random(1), words()

    def text(length: int) -> str:
        return " ".join(draw.choices(known, k=length))

    return tuple(
        Example(
            f"item{number}",
            text(QUESTION_WORDS),
            text(ANSWER_WORDS),
            (text(ANSWER_WORDS),),
            tuple(text(ANSWER_WORDS) for _ in range(5)),
        )
        for number in range(count)
    )
