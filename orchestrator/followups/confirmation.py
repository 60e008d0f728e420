"""`lethe confirm`: repeats members of the front under new seeds.

The best of many trials under one seed is partly luck; repetitions show how much. They are not trials of the
search: the study does not hold them, and they count towards no budget. They are kept in a file of their own,
which is complete after every result, so that a restarted driver runs only the repetitions that are missing.
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
    """A member of the front that is to run again under another seed."""

    member: FrontMember
    seed: int

    @property
    def key(self) -> tuple[str, int, int]:
        """Trial, rung and seed: the key of its `Confirmation`."""
        return (*self.member.key, self.seed)

    @property
    def name(self) -> str:
        """The name of its `Confirmation`: `t0007@2 seed 1`."""
        return f"{self.member.name} seed {self.seed}"


def confirmation_seeds(sweep: SweepSettings, count: int) -> range:
    """Returns the first `count` seeds above all seeds that a trial of the search can have.

    A larger count begins with the same seeds, so that a later call adds repetitions to the earlier ones.
    """
    searched = sweep.space.get("seed")
    drawn = [] if searched is None else [searched.high, *searched.choices]
    # A domain has either an upper bound or choices: the bound of choices is None.
    first = 1 + max([sweep.trial.seed, *(int(seed) for seed in drawn if seed is not None)])
    return range(first, first + count)


def plan_repetitions(
    members: Sequence[FrontMember], seeds: Sequence[int], known: Collection[Confirmation]
) -> list[Repetition]:
    """Returns the repetitions that are still to run: all members under the first seed, then the next seed.

    Args:
        members: Members of the front to confirm.
        seeds: Seeds in the order in which they are used.
        known: Confirmations that exist, including failed ones, which would fail again under the same seed.
    """
    done = {confirmation.key for confirmation in known}
    # Seed by seed: the hypervolume over seeds needs seeds that all members have, also after an early end.
    wanted = [Repetition(member, seed) for seed in seeds for member in members]
    return [repetition for repetition in wanted if repetition.key not in done]


@dataclass(frozen=True)
class RepetitionTask(JobTask):
    """One repetition on a lane, whose result is added to the sweep's confirmations when it ends.

    The caller holds the sweep's lock, so no other process writes the file.
    """

    repetition: Repetition
    sweep: SweepSettings
    plan: Plan
    folder: SweepFolder

    @property
    def name(self) -> str:
        """The name of its `Confirmation`: `t0007@2 seed 1`."""
        return self.repetition.name

    def job(self) -> TrialJob:
        """Returns the job of the member's trial under the other seed, which ends at the member's rung."""
        member = self.repetition.member
        # The schedule stays that of the whole trial, so that the learning rate takes the same path.
        params = {**member.record.params, "seed": self.repetition.seed}
        return trial_job(self.sweep, self.plan, member.record.trial_id, params, stop_at_rung=member.rung)

    def keep(self, result: Mapping[str, Any]) -> str:
        """Adds the result; a repetition whose objectives are not finite numbers counts as failed."""
        metrics = result["metrics"]
        reason = why_unusable(metrics, objectives_of(self.sweep))
        if reason is not None:
            return self.fail(reason)
        spent_s = sum(result["seconds"].values())
        member = self.repetition.member.name
        return self._add(Confirmation(*self.repetition.key, member, metrics, spent_s=spent_s))

    def fail(self, reason: str) -> str:
        """Adds the failure, because the repetition would fail again under the same seed."""
        return self._add(Confirmation(*self.repetition.key, self.repetition.member.name, {}, reason))

    def _add(self, result: Confirmation) -> str:
        """Writes the file with one more result, and returns the line that is printed."""
        results = [*read_confirmations(self.folder), result]
        write_json(confirmations_file(self.folder), [asdict(known) for known in results])
        if result.reason is not None:
            return f"failed: {result.reason}"
        values = objective_values(result.metrics, objectives_of(self.sweep), "test") or {}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        return f"{shown} ({result.spent_s:.1f} s)"
