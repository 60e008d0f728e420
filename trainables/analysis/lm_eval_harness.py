"""The only seam to lm-eval: public benchmarks (MMLU and hundreds more) on one model, in one process."""

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from search_spaces.user_errors import UserError
from trainables.jobs import BenchmarkJob

OnPass = Callable[[int, int], None]
"""Takes the number of a forward pass and how many there are, as far as is known: also the sign of life of a
run that takes hours."""


def check_tasks(tasks: tuple[str, ...], task_folder: str | None) -> None:
    """Refuse tasks that lm-eval does not know, before anything is loaded.

    Raises:
        UserError: lm-eval is not installed, or there is no such task.
    """
    known = _manager(task_folder)
    unknown = [name for name in tasks if not known.match_tasks([name])]
    if unknown or not tasks:
        raise UserError(
            "lm-eval knows no such task",
            key="--tasks",
            value=", ".join(unknown),
            remedy="see `lm-eval ls tasks`, or give --task-folder",
        )


def run_benchmark(job: BenchmarkJob, on_pass: OnPass) -> dict[str, dict[str, float]]:
    """Evaluate one model on lm-eval's tasks.

    Args:
        job: Model, tasks, limit and batch size.
        on_pass: Called at every forward pass.

    Returns:
        Per task its metrics: `acc` -> 0.25; `acc_stderr` is the standard error of `acc`.

    Raises:
        UserError: A task's data or the model cannot be loaded.
    """
    import lm_eval

    logging.getLogger("lm-eval").setLevel(logging.ERROR)
    try:
        found = lm_eval.simple_evaluate(
            model=_model(job, on_pass),
            tasks=list(job.tasks),
            limit=job.limit,
            task_manager=_manager(job.task_folder),
            log_samples=False,
            verbosity="ERROR",
        )
    except (OSError, ConnectionError, ValueError) as error:
        raise UserError(
            f"lm-eval cannot load a task or the model: {error}",
            key="--tasks",
            value=", ".join(job.tasks),
            remedy=(
                "check the network, or fill the hub's cache on a machine that has one and set"
                " HF_HUB_OFFLINE=1"
            ),
        ) from error
    results = found["results"] | found.get("groups", {})
    return {task: _metrics(results[task]) for task in job.tasks}


def _model(job: BenchmarkJob, on_pass: OnPass) -> Any:
    """lm-eval's own model of transformers, which says something at every forward pass."""
    from lm_eval.models.huggingface import HFLM

    class ReportingModel(HFLM):
        _passes = _planned = 0

        def _plan(self, requests: Any) -> None:
            self._planned += -(-len(requests) // job.batch)

        def _pass(self) -> None:
            self._passes += 1
            on_pass(self._passes, max(self._passes, self._planned))

        def _loglikelihood_tokens(self, requests: Any, *arguments: Any, **more: Any) -> Any:
            self._plan(requests)
            return super()._loglikelihood_tokens(requests, *arguments, **more)

        def generate_until(self, requests: Any, *arguments: Any, **more: Any) -> Any:
            self._plan(requests)
            return super().generate_until(requests, *arguments, **more)

        def _model_call(self, *arguments: Any, **more: Any) -> Any:
            self._pass()
            return super()._model_call(*arguments, **more)

        def _model_generate(self, *arguments: Any, **more: Any) -> Any:
            self._pass()
            return super()._model_generate(*arguments, **more)

    model = job.model
    return ReportingModel(
        pretrained=job.folder,
        revision=model.revision or "main",
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        batch_size=job.batch,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """`acc,none` -> `acc`: the part behind the comma is the filter of the answers, kept where it is one."""
    found = {}
    for key, value in result.items():
        metric, _, kind = key.partition(",")
        if kind and isinstance(value, int | float):
            found[metric if kind == "none" else f"{metric}_{kind.replace('-', '_')}"] = float(value)
    return found


def _manager(task_folder: str | None) -> Any:
    # Tasks load their data by code of the hub's data sets library; nothing of it reports home.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("lm-eval is not installed", key="--tasks", remedy="`pip install lm-eval`") from error
    return TaskManager(include_path=task_folder)
