"""The only seam to lm-eval: public benchmarks (MMLU and hundreds more) on a model of a sweep, beside the
original's."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.storage.sweep_folder import SweepFolder, write_json
from search_spaces.settings.model_settings import ModelSettings
from search_spaces.user_errors import UserError

Scores = Mapping[str, float]
"""Task and metric (`mmlu/acc`) -> value; `mmlu/acc_stderr` is its standard error."""


@dataclass(frozen=True)
class BenchmarkRequest:
    """What is evaluated, and how."""

    tasks: tuple[str, ...]
    """Names of tasks or groups of tasks."""
    limit: int | None = None
    """Most items per task; all when None."""
    batch: int = 8
    """Items per forward pass."""
    folder: Path | None = None
    """Folder with task files of one's own."""


def check_tasks(asked: BenchmarkRequest) -> None:
    """Refuse tasks that lm-eval does not know, before anything is loaded.

    Raises:
        UserError: lm-eval is not installed, or there is no such task.
    """
    known = _manager(asked)
    unknown = [name for name in asked.tasks if not known.match_tasks([name])]
    if unknown or not asked.tasks:
        raise UserError(
            "lm-eval knows no such task",
            key="--tasks",
            value=", ".join(unknown),
            remedy="see `lm-eval ls tasks`, or give --task-folder",
        )


def evaluated(
    folder: SweepFolder, name: str, weights: str, model: ModelSettings, asked: BenchmarkRequest
) -> Scores:
    """Scores of one model; what was evaluated before in the same way is read, not run.

    Args:
        folder: Where results of the sweep are kept.
        name: What people call the model: `original`, `t0007@2`.
        weights: Its folder or hub id.
        model: How it is loaded.
        asked: Tasks, limit and batch size.

    Raises:
        UserError: A task's data cannot be loaded.
    """
    # One name may mean another task in another folder.
    way = f"{name}, limit {asked.limit}, tasks of {asked.folder or 'lm-eval'}"
    file = folder.path / "lm_eval.json"
    known: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else {}
    entry = known.get(way, {})
    missing = [task for task in asked.tasks if task not in entry]
    if missing:
        entry = entry | _run(weights, model, missing, asked)
        write_json(file, known | {way: entry})
    return {f"{task}/{metric}": value for task in asked.tasks for metric, value in entry[task].items()}


def _run(
    weights: str, model: ModelSettings, tasks: Sequence[str], asked: BenchmarkRequest
) -> dict[str, dict[str, float]]:
    """Metrics by task."""
    import lm_eval

    from trainables.analysis.single_process import best_device

    logging.getLogger("lm-eval").setLevel(logging.ERROR)
    arguments = {"pretrained": weights, "dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
    if model.revision is not None:
        arguments["revision"] = model.revision
    try:
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=list(tasks),
            limit=asked.limit,
            batch_size=asked.batch,
            device=best_device(),
            task_manager=_manager(asked),
            log_samples=False,
            verbosity="ERROR",
        )
    except (OSError, ConnectionError, ValueError) as error:
        raise UserError(
            f"lm-eval cannot load a task or the model: {error}",
            key="--tasks",
            value=", ".join(tasks),
            remedy=(
                "check the network, or fill the hub's cache on a machine that has one and set"
                " HF_HUB_OFFLINE=1"
            ),
        ) from error
    results = found["results"] | found.get("groups", {})
    return {task: _metrics(results[task]) for task in tasks}


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """`acc,none` -> `acc`: the part behind the comma is the filter of the answers, and told only where it is
    one."""
    found = {}
    for key, value in result.items():
        metric, _, kind = key.partition(",")
        if kind and isinstance(value, int | float):
            found[metric if kind == "none" else f"{metric}_{kind.replace('-', '_')}"] = float(value)
    return found


def _manager(asked: BenchmarkRequest) -> Any:
    # Tasks load their data by code of the hub's data sets library; nothing of it reports home.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("lm-eval is not installed", key="--tasks", remedy="`pip install lm-eval`") from error
    return TaskManager(include_path=None if asked.folder is None else str(asked.folder))
