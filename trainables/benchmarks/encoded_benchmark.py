"""A benchmark with its training sets tokenised: a lane loads it once, and all its trials use it."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from search_spaces.settings.data_settings import DataSettings
from trainables.benchmarks.registry import load_benchmark
from trainables.data.encoding import Encoded, encode_example
from trainables.data.examples import Benchmark, Example


@dataclass(frozen=True)
class EncodedBenchmark:
    """The benchmark with its forget and retain examples as token ids."""

    benchmark: Benchmark
    forget: Sequence[Encoded]
    retain: Sequence[Encoded]


def encode_examples(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Encoded]:
    """Encode each example, with the border between prompt and answer."""
    return [encode_example(tokenizer, example) for example in examples]


def load_encoded_benchmark(settings: DataSettings, tokenizer: PreTrainedTokenizerBase) -> EncodedBenchmark:
    """Load the benchmark and tokenise its forget and retain examples."""
    # Errors of workers end up in logs, so they quote no text; the driver, which has loaded the benchmark
    # before, shows the user what is wrong.
    benchmark = load_benchmark(settings, redact=True)
    # Evaluation parts are encoded when they are scored: a lane may never measure the test part.
    return EncodedBenchmark(
        benchmark, encode_examples(tokenizer, benchmark.forget), encode_examples(tokenizer, benchmark.retain)
    )
