"""A benchmark as a lane holds it: loaded and tokenised once, then used by every trial."""

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
    """Token ids of each example, its answer marked."""
    return [encode_example(tokenizer, example) for example in examples]


def load_encoded_benchmark(settings: DataSettings, tokenizer: PreTrainedTokenizerBase) -> EncodedBenchmark:
    """Load the benchmark and tokenise what is trained on."""
    benchmark = load_benchmark(settings, redact=True)  # the driver has read it before, and quotes what it may
    return EncodedBenchmark(
        benchmark, encode_examples(tokenizer, benchmark.forget), encode_examples(tokenizer, benchmark.retain)
    )
