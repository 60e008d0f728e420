"""`lethe benchmark`: public benchmarks (lm-eval) on models of a sweep, kept by model and way beside it."""

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
    """Which tasks are evaluated, and how."""

    tasks: tuple[str, ...]
    """Names of tasks or groups of tasks."""
    limit: int | None = None
    """Most items per task; all when None."""
    batch: int = 8
    """Items per forward pass."""
    folder: Path | None = None
    """Folder with task files of one's own."""


@dataclass(frozen=True)
class BenchmarkTask(JobTask):
    """lm-eval on one model, for the tasks that an earlier call has not evaluated in the same way.

    Attributes:
        model_name: What people call the model: `original`, `t0007@2`.
        weights: Its folder or hub id.
        model: How it is loaded.
        request: Tasks, limit and batch size.
        sweep_folder: Where results of the sweep are kept. The caller is the one writer.
    """

    model_name: str
    weights: str
    model: ModelSettings
    request: BenchmarkRequest
    sweep_folder: SweepFolder

    @property
    def name(self) -> str:
        """As people see it: `lm-eval of t0007@2`."""
        return f"lm-eval of {self.model_name}"

    @property
    def missing(self) -> tuple[str, ...]:
        """Tasks without a result."""
        entry = self._entry()
        return tuple(task for task in self.request.tasks if task not in entry)

    def job(self) -> BenchmarkJob:
        """Model and missing tasks."""
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
        """Add the scores to those of the sweep."""
        found = result["tasks"]
        write_json(self._file, self._known() | {self._way: self._entry() | found})
        return ", ".join(found)

    def fail(self, reason: str) -> str:
        """Nothing is kept: the next call tries again."""
        return f"failed: {reason}"

    def scores(self) -> Scores:
        """Scores by task and metric, of the tasks that have any."""
        entry = self._entry()
        return {
            f"{task}/{metric}": value
            for task in self.request.tasks
            for metric, value in entry.get(task, {}).items()
        }

    @property
    def _way(self) -> str:
        # One name may mean another task in another folder.
        tasks = self.request.folder or "lm-eval"
        return f"{self.model_name}, limit {self.request.limit}, tasks of {tasks}"

    @property
    def _file(self) -> Path:
        return self.sweep_folder.path / "lm_eval.json"

    def _known(self) -> dict[str, dict[str, Any]]:
        known: dict[str, dict[str, Any]] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        return known

    def _entry(self) -> dict[str, Any]:
        return self._known().get(self._way, {})
