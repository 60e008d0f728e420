"""`lethe confirm`: runs members of the front again under new seeds, because the best of many runs of one seed is partly luck.

Repetitions are no trials of the search: the study never hears of them, and they count towards no budget. They have a file of their own
beside it, which is complete at every moment, so that a killed driver repeats only what was running.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.lanes.job_queue import LostError
from orchestrator.pareto.front import FrontMember
from orchestrator.pareto.objectives import Objective, objective_values, objectives_of, why_unusable
from orchestrator.storage.baselines import OnProgress, Plan
from orchestrator.storage.followup_records import Confirmation, confirmations_file, read_confirmations
from orchestrator.storage.sweep_folder import SweepFolder, write_json
from search_spaces.settings.space import apply
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.jobs import TrialJob

if TYPE_CHECKING:
    # Only for its name: reading confirmations must not wait for Ray.
    from orchestrator.lanes.lane_pool import LanePool


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
    """The first `count` seeds above every one that a trial of the search can have had; more seeds later begin with the same ones."""
    searched = sweep.space.get("seed")
    drawn = [] if searched is None else [searched.high, *searched.choices]
    first = 1 + max([sweep.trial.seed, *(int(seed) for seed in drawn if seed is not None)])
    return range(first, first + count)


def plan_repetitions(members: Sequence[FrontMember], seeds: Sequence[int], known: Collection[Confirmation]) -> list[Repetition]:
    """What is still to run: all members under the first seed, then under the next, so that an early end leaves whole seeds.

    Args:
        members: Those to confirm.
        seeds: In the order in which they are used.
        known: Results that are there, of failed repetitions too: under the same seed those would fail again.
    """
    done = {confirmation.key for confirmation in known}
    wanted = [Repetition(member, seed) for seed in seeds for member in members]
    return [repetition for repetition in wanted if repetition.key not in done]


def run_repetitions(
    repetitions: Sequence[Repetition],
    sweep: SweepSettings,
    plan: Plan,
    pool: "LanePool",
    folder: SweepFolder,
    say: Callable[[str], None],
    stage: OnProgress,
) -> None:
    """Run repetitions on warm lanes, and keep each result as soon as it and those before it are there. `lethe stop` ends it early.

    The caller holds the sweep's lock: there is one writer.

    Args:
        repetitions: What `plan_repetitions` gave.
        sweep: Settings with objectives filled in.
        plan: The sweep's baselines, ensured.
        pool: Lanes of the sweep's own kind.
        folder: The sweep's files.
        say: Prints a line that stays.
        stage: Told what is going on, and how far the oldest running repetition is.

    Raises:
        LostError: No lane is left. Nothing is noted about what has not ended: the same call goes on with it.
    """
    folder.stop_request.unlink(missing_ok=True)
    title = f"confirming: {len(repetitions)} repetitions under new seeds"
    stage(title, {})
    for repetition in repetitions:
        pool.submit(repetition.name, repetition_job(repetition, sweep, plan))
    results = read_confirmations(folder)
    for place, repetition in enumerate(repetitions, start=1):
        try:
            outcome = pool.wait(repetition.name, partial(stage, title))
            result = _confirmation(repetition, outcome, objectives_of(sweep))
        except LostError as error:
            raise LostError(
                f"{len(repetitions) - place + 1} repetitions are missing: {error.message}",
                file=str(folder.driver_log),
                remedy="mend the cause and run the same command again: it goes on where it was",
            ) from error
        except UserError as error:
            result = _failed(repetition, error.message.removeprefix(f"{repetition.name} failed: "))
        results.append(result)
        write_json(confirmations_file(folder), [asdict(known) for known in results])
        say(f"{result.name} [{place}/{len(repetitions)}]: {_told(result, objectives_of(sweep))}")
        if folder.stop_request.exists():
            say(f"stopped by `lethe stop` with {len(repetitions) - place} repetitions left; the same command goes on with them")
            return


def repetition_job(repetition: Repetition, sweep: SweepSettings, plan: Plan) -> TrialJob:
    """The member's trial under the other seed: the full schedule, so that the learning rate takes the same path, ended at the rung."""
    trial = apply(sweep.trial, {**repetition.member.record.params, "seed": repetition.seed})
    return TrialJob(
        trial_id=repetition.member.record.trial_id,
        model=sweep.model,
        data=sweep.data,
        evaluation=sweep.evaluation,
        trial=trial,
        folder=plan.original.folder,
        original=str(plan.original.measurement),
        retrained=str(plan.retrained.measurement) if plan.retrained else None,
        stop_at_rung=repetition.member.rung,
    )


def _confirmation(repetition: Repetition, outcome: Mapping[str, Any], objectives: Sequence[Objective]) -> Confirmation:
    reason = why_unusable(outcome["metrics"], objectives)
    if reason is not None:
        return _failed(repetition, reason)
    spent_s = sum(outcome["seconds"].values())
    return Confirmation(*repetition.key, repetition.member.name, outcome["metrics"], spent_s=spent_s)


def _failed(repetition: Repetition, reason: str) -> Confirmation:
    return Confirmation(*repetition.key, repetition.member.name, {}, reason)


def _told(result: Confirmation, objectives: Sequence[Objective]) -> str:
    if result.reason is not None:
        return f"failed: {result.reason}"
    values = objective_values(result.metrics, objectives, "test") or {}
    return f"{', '.join(f'{name} {value:.3f}' for name, value in values.items())} ({result.spent_s:.1f} s)"
