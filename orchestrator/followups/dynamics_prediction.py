"""`lethe dynamics`: predicts on a lane what one unlearning step does to other answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.lanes.job_batch import JobTask
from search_spaces.user_errors import UserError
from trainables.jobs import DynamicsJob


@dataclass(frozen=True)
class DynamicsTask(JobTask):
    """The dynamics of one policy; what it gives is drawn and shown, and kept nowhere else."""

    title: str
    """`one step from the original model of tiny`."""
    dynamics_job: DynamicsJob
    found: dict[str, Any] = field(default_factory=dict)
    """What `run_dynamics` returns."""

    @property
    def name(self) -> str:
        """As people see it."""
        return self.title

    def job(self) -> DynamicsJob:
        """Policy, original and losses."""
        return self.dynamics_job

    def keep(self, result: Mapping[str, Any]) -> None:
        """Take the numbers."""
        self.found.update(result)

    def fail(self, reason: str) -> None:
        """Without its numbers there is nothing to draw.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.title} failed: {reason}")
