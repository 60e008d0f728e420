"""`lethe confirm`: runs members of the front again under new seeds, because the best of many runs of one seed
is partly luck.

Repetitions are no trials of the search: the study never hears of them, and they count towards no budget. They
have a file of their own beside it, which is complete at every moment, so that a killed driver repeats only
what was running.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.lanes.job_batch import JobTask
from orchestrator.pareto.front import FrontMember
from orchestrator.pareto.objectives import objective_values, objectives_of, why_unusable
from orchestrator.storage.baselines import Plan, trial_job
from orchestrator.storage.followup_records import Confirmation, confirmations_file, read_confirmations
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.settings.sweep_settings import SweepSettings
from trainables.durable_files import write_json
from trainables.jobs import TrialJob


@dataclass(frozen=True)
class Repetition:
    """A member that is to run again under another seed."""

    member: FrontMember
    seed: int

    @property
    def key(self) -> tuple[str, int, int]:
        """That of its `Confirmation`."""
        return (*self.member.key, self.seed)

    @property
    def name(self) -> str:
        """That of its `Confirmation`: `t0007@2 seed 1`."""
        return f"{self.member.name} seed {self.seed}"


def confirmation_seeds(sweep: SweepSettings, count: int) -> range:
    """The first `count` seeds above every one that a trial of the search can have had; more seeds later begin
    with the same ones."""
    searched = sweep.space.get("seed")
    drawn = [] if searched is None else [searched.high, *searched.choices]
    first = 1 + max([sweep.trial.seed, *(int(seed) for seed in drawn if seed is not None)])
    return range(first, first + count)


def plan_repetitions(
    members: Sequence[FrontMember], seeds: Sequence[int], known: Collection[Confirmation]
) -> list[Repetition]:
    """What is still to run: all members under the first seed, then under the next, so that an early end
    leaves whole seeds.

    Args:
        members: Those to confirm.
        seeds: In the order in which they are used.
        known: Results that are there, of failed repetitions too: under the same seed those would fail again.
    """
    done = {confirmation.key for confirmation in known}
    wanted = [Repetition(member, seed) for seed in seeds for member in members]
    return [repetition for repetition in wanted if repetition.key not in done]


@dataclass(frozen=True)
class RepetitionTask(JobTask):
    """One repetition on the lanes, whose result is added to the sweep's confirmations as soon as it is there.

    The caller holds the sweep's lock: there is one writer.
    """

    repetition: Repetition
    sweep: SweepSettings
    plan: Plan
    folder: SweepFolder

    @property
    def name(self) -> str:
        """That of its `Confirmation`: `t0007@2 seed 1`."""
        return self.repetition.name

    def job(self) -> TrialJob:
        """The member's trial under the other seed, ended at the member's rung.

        It has the full schedule, so that the learning rate takes the same path.
        """
        member = self.repetition.member
        params = {**member.record.params, "seed": self.repetition.seed}
        return trial_job(self.sweep, self.plan, member.record.trial_id, params, stop_at_rung=member.rung)

    def keep(self, result: Mapping[str, Any]) -> str:
        """Add the result; one that is not a finite number counts as failed."""
        reason = why_unusable(result["metrics"], objectives_of(self.sweep))
        if reason is not None:
            return self.fail(reason)
        spent_s = sum(result["seconds"].values())
        return self._add(
            Confirmation(
                *self.repetition.key, self.repetition.member.name, result["metrics"], spent_s=spent_s
            )
        )

    def fail(self, reason: str) -> str:
        """Keep the failure: under the same seed the repetition would fail again."""
        return self._add(Confirmation(*self.repetition.key, self.repetition.member.name, {}, reason))

    def _add(self, result: Confirmation) -> str:
        results = [*read_confirmations(self.folder), result]
        write_json(confirmations_file(self.folder), [asdict(known) for known in results])
        if result.reason is not None:
            return f"failed: {result.reason}"
        values = objective_values(result.metrics, objectives_of(self.sweep), "test") or {}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        return f"{shown} ({result.spent_s:.1f} s)"
