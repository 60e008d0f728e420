"""The registry of benchmarks, and the checks that every benchmark must pass."""

from collections.abc import Callable
from typing import Any

from search_spaces.settings.data_settings import DataSettings
from search_spaces.user_errors import UserError
from trainables.benchmarks.closed_world import build_closed_world
from trainables.benchmarks.local_files import load_local_files
from trainables.benchmarks.muse import load_muse
from trainables.benchmarks.tofu import load_tofu
from trainables.benchmarks.wmdp import load_wmdp
from trainables.data.examples import Benchmark

PATH_KEYS = ("data.path", "data.mmlu")
"""Settings whose values are paths or hub ids and contain no text of the benchmark."""

BENCHMARKS: dict[str, Callable[[Any], Benchmark]] = {
    "closed_world": build_closed_world,
    "tofu": load_tofu,
    "muse": load_muse,
    "wmdp": load_wmdp,
    "local_files": load_local_files,
}


def load_benchmark(data: DataSettings, *, redact: bool = False) -> Benchmark:
    """Load the benchmark that `data` names, and refuse one that cannot be unlearned sensibly.

    Args:
        data: Settings of the benchmark.
        redact: Quote none of its text in errors, which end up in logs.

    Raises:
        UserError: The data cannot be read, the forget or retain set is empty, or the two share an example,
            which would be unlearned and retained at once.
    """
    try:
        return _checked(data)
    except UserError as error:
        # An error about a path is useless without the path.
        if not redact or error.key in PATH_KEYS:
            raise
        # Not chained, since tracebacks of workers would show the cause with its text.
        raise error.with_hashed_value() from None


def _checked(data: DataSettings) -> Benchmark:
    benchmark = BENCHMARKS[data.benchmark](data)
    for name, examples in (("forget", benchmark.forget), ("retain", benchmark.retain)):
        if not examples:
            raise UserError(
                f"the {name} set is empty", key=f"data.{name}", remedy="give it at least one example"
            )
    # By prompt and response: one question with two answers may well be in both sets.
    retained = {(example.prompt, example.response): example.id for example in benchmark.retain}
    shared = [
        (example, retained[example.prompt, example.response])
        for example in benchmark.forget
        if (example.prompt, example.response) in retained
    ]
    if shared:
        example, twin = shared[0]
        raise UserError(
            f"{len(shared)} example(s) are in the forget and in the retain set; the first: {example.id} and"
            f" {twin}",
            key="data",
            value=example.prompt or example.response,
            remedy="remove them from one of the two",
        )
    return benchmark
