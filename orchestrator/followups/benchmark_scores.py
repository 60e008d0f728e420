"""`lethe benchmark`: scores of public benchmarks (lm-eval) for models of a sweep, kept in its folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.lanes.job_batch import JobTask
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.settings.model_settings import ModelSettings
from trainables.durable_files import write_json
from trainables.jobs import BenchmarkJob

Scores = Mapping[str, float]
"""Task and metric (`mmlu/acc`) -> value; `mmlu/acc_stderr` is its standard error."""


@dataclass(frozen=True)
class BenchmarkRequest:
    """The tasks to evaluate, and the options of lm-eval."""

    tasks: tuple[str, ...]
    """Names of tasks or of groups of tasks."""
    limit: int | None = None
    """Largest number of items per task; None for all items."""
    batch: int = 8
    """Items per forward pass."""
    folder: Path | None = None
    """Folder with further task files."""


@dataclass(frozen=True)
class BenchmarkTask(JobTask):
    """A run of lm-eval on one model, for the tasks whose scores do not exist yet.

    Attributes:
        model_name: Name of the model: `original`, `t0007@2`.
        weights: Folder or hub id of its weights.
        model: Settings with which it is loaded.
        request: Tasks, limit and batch size.
        sweep_folder: Files of the sweep, among which the scores are kept. The sweep's lock is not held, so
            that it may run meanwhile; two calls at a time may therefore lose scores of one of them.
    """

    model_name: str
    weights: str
    model: ModelSettings
    request: BenchmarkRequest
    sweep_folder: SweepFolder

    @property
    def name(self) -> str:
        """The task's name in messages: `lm-eval of t0007@2`."""
        return f"lm-eval of {self.model_name}"

    @property
    def missing(self) -> tuple[str, ...]:
        """Tasks without scores, in the order of the request."""
        entry = self._entry()
        return tuple(task for task in self.request.tasks if task not in entry)

    def job(self) -> BenchmarkJob:
        """Returns the job that evaluates the missing tasks."""
        # An absolute path: the worker has another working directory.
        folder = self.request.folder
        return BenchmarkJob(
            model=self.model,
            folder=self.weights,
            tasks=self.missing,
            limit=self.request.limit,
            batch=self.request.batch,
            task_folder=None if folder is None else str(folder.resolve()),
        )

    def keep(self, result: Mapping[str, Any]) -> str:
        """Adds the scores to those of the sweep."""
        scores = result["tasks"]
        # The file is read again: the tasks of other models write it too.
        write_json(self._file, self._known() | {self._key: self._entry() | scores})
        return ", ".join(scores)

    def fail(self, reason: str) -> str:
        """Keeps nothing, so that the next call tries again."""
        return f"failed: {reason}"

    def scores(self) -> Scores:
        """Returns the scores of the requested tasks that have any."""
        entry = self._entry()
        return {
            f"{task}/{metric}": value
            for task in self.request.tasks
            for metric, value in entry.get(task, {}).items()
        }

    @property
    def _key(self) -> str:
        # A limit changes the items, and a task's name may mean another task in another folder.
        tasks = self.request.folder or "lm-eval"
        return f"{self.model_name}, limit {self.request.limit}, tasks of {tasks}"

    @property
    def _file(self) -> Path:
        return self.sweep_folder.path / "lm_eval.json"

    def _known(self) -> dict[str, dict[str, Any]]:
        known: dict[str, dict[str, Any]] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        return known

    def _entry(self) -> dict[str, Any]:
        return self._known().get(self._key, {})
