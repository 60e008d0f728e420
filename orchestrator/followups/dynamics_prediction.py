"""`lethe dynamics`: predicts on a lane how one unlearning step changes the likelihood of other answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.lanes.job_batch import JobTask
from search_spaces.user_errors import UserError
from trainables.jobs import DynamicsJob


@dataclass(frozen=True)
class DynamicsTask(JobTask):
    """The dynamics of one policy. The result is held in memory only: `lethe dynamics` draws and prints it."""

    title: str
    """Title of the picture: `one step from the original model of tiny`."""
    dynamics_job: DynamicsJob
    found: dict[str, Any] = field(default_factory=dict)
    """The result, as `run_dynamics` returns it; empty until the job has ended."""

    @property
    def name(self) -> str:
        """The task's name in messages."""
        return self.title

    def job(self) -> DynamicsJob:
        """Returns the job: policy, original model and losses."""
        return self.dynamics_job

    def keep(self, result: Mapping[str, Any]) -> None:
        """Takes the result."""
        # In place: the task is frozen, and its caller holds it.
        self.found.update(result)

    def fail(self, reason: str) -> None:
        """Ends the command, which has nothing to draw without the result.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.title} failed: {reason}")
