"""Runs the jobs that are no trials of a sweep: baselines, repetitions, audits, reproductions and more."""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.followups.audits import AuditTask, plan_audits
from orchestrator.followups.benchmark_scores import BenchmarkTask
from orchestrator.followups.confirmation import RepetitionTask, confirmation_seeds, plan_repetitions
from orchestrator.followups.dynamics_prediction import DynamicsTask
from orchestrator.followups.reproduction import Outcome, ReproductionTask
from orchestrator.lanes.job_batch import JobBatch, JobTask
from orchestrator.lanes.library_logs import library_logs
from orchestrator.pareto.member_selection import select_members
from orchestrator.storage.baselines import Plan
from orchestrator.storage.followup_records import (
    Audit,
    Confirmation,
    Subject,
    note_audit,
    read_confirmations,
)
from orchestrator.storage.trial_records import TrialRecord
from orchestrator.sweep.session import Session
from search_spaces.settings.evaluation_settings import EvaluationSettings


def prepare_baselines(session: Session) -> Plan:
    """Prepare and measure the baselines of the sweep, without starting a trial.

    Returns:
        The baselines, and the jobs that were missing before the call.

    Raises:
        UserError: Settings, data, models or the cluster do not allow it.
    """
    folder = session.folder
    with folder.opened(session.sweep, session.file), library_logs(folder.driver_log):
        plan = session.plan()
        # The lanes measure the baselines before the block, so that no job is left for it.
        with session.lanes(0, most=max(1, len(plan.prepare)), plan=plan):
            pass
        return plan


def confirm_members(session: Session, members_text: str, seeds: int) -> list[Confirmation]:
    """Run members of the front again under new seeds, except the repetitions that exist already.

    Args:
        session: Session of the sweep.
        members_text: Selects the members: see `orchestrator.pareto.member_selection`.
        seeds: Number of new seeds for each member.

    Returns:
        All confirmations of the sweep.

    Raises:
        UserError: There is no such member, the cluster does not allow it, or the lanes were lost on the way.
    """
    folder, sweep = session.folder, session.sweep
    with session.opened() as opened:
        members = select_members(opened.state.reported_front, members_text)
        repetitions = plan_repetitions(members, confirmation_seeds(sweep, seeds), read_confirmations(folder))
        title = f"confirming: {len(repetitions)} repetitions under new seeds"
        batch = JobBatch("repetitions", folder.driver_log, title, folder.stop_request)
        tasks = [RepetitionTask(repetition, sweep, opened.plan, folder) for repetition in repetitions]
        if tasks:
            with session.lanes(len(tasks), plan=opened.plan) as pool:
                batch.run(tasks, pool, session.observer)
        session.publish(opened)
        return read_confirmations(folder)


def audit_models(
    session: Session, members: Sequence[Subject], evaluation: EvaluationSettings
) -> tuple[list[Audit], list[str]]:
    """Probe models of the sweep for what they still know; audits with the same settings are not repeated.

    Args:
        session: Session of the sweep.
        members: Models of trials; the original and the retrained model are audited too.
        evaluation: Settings of the probes.

    Returns:
        Audits of the original, the retrained model and the members; and the names of the models whose audit
        failed.

    Raises:
        UserError: The cluster does not allow it, or the lanes were lost on the way.
    """
    with session.opened() as opened:
        plan = opened.plan
        baselines = {"original": plan.original, "retrained": plan.retrained}
        subjects = [Subject(name, model.folder) for name, model in baselines.items() if model is not None]
        retrained = plan.retrained.measurement if plan.retrained else None
        tasks = plan_audits([*subjects, *members], session.sweep, evaluation, retrained, session.folder)
        audits, failed = _run_audits(session, tasks, plan)
        session.publish(opened)
        return audits, failed


def audit_folder(
    session: Session, subject: Subject, evaluation: EvaluationSettings
) -> tuple[list[Audit], list[str]]:
    """Probe one model that belongs to no sweep; the session's folder is made for it.

    Returns:
        The audit, or none if it failed; and then the name of the model.

    Raises:
        UserError: The data cannot be read, the cluster does not allow it, or the lane was lost on the way.
    """
    folder = session.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.locked(), library_logs(folder.driver_log):
        tasks = plan_audits([subject], session.sweep, evaluation, None, folder)
        return _run_audits(session, tasks, None)


def _run_audits(
    session: Session, tasks: Sequence[AuditTask], plan: Plan | None
) -> tuple[list[Audit], list[str]]:
    folder = session.folder
    missing = [task for task in tasks if not task.done]
    # An audit that exists becomes the newest one of its model again.
    for task in tasks:
        if task.done:
            note_audit(folder, task.subject, Path(task.audit_job.output))
    failed: list[str] = []
    if missing:
        title = f"auditing {len(missing)} model{'s' * (len(missing) != 1)}"
        batch = JobBatch("audits", folder.driver_log, title, folder.stop_request)
        with session.lanes(len(missing), plan=plan) as pool:
            result = batch.run(missing, pool, session.observer)
        failed = [task.subject.name for task in missing if task.name in result.failed]
    return [task.read() for task in tasks if task.done], failed


def reproduce_trial(
    session: Session, record: TrialRecord, weights: Path | None = None, kept_rung: int | None = None
) -> Outcome:
    """Run one trial again without touching the study that holds it.

    Args:
        session: Session of the sweep as it is to be run now, with a scratch folder.
        record: The trial, from the study or from MLflow.
        weights: Folder for the weights of the rungs that are kept.
        kept_rung: With `weights`, a rung to keep although the trial may not have kept it.

    Returns:
        Metrics of the trial's rungs, or the reason why it failed.

    Raises:
        UserError: Data, models or the cluster do not allow it, or the lane was lost on the way.
    """
    with library_logs(session.folder.driver_log):
        plan = session.plan()
        task = ReproductionTask(record, session.sweep, plan, weights, kept_rung)
        with session.lanes(1, plan=plan) as pool:
            JobBatch("trials", session.folder.driver_log).run([task], pool, session.observer)
        return task.outcome


def run_in_one_process(session: Session, tasks: Sequence[DynamicsTask | BenchmarkTask]) -> list[str]:
    """Run jobs that hold a whole model in one process, on lanes of one worker.

    The study is not opened, so that this works also while the sweep runs.

    Returns:
        Names of the tasks that failed.

    Raises:
        UserError: The cluster does not allow it, or the lanes were lost on the way.
    """
    if not tasks:
        return []
    log = session.folder.driver_log.with_name("followups.log")
    jobs: list[JobTask] = list(tasks)
    with library_logs(log), session.with_one_worker().lanes(len(jobs)) as pool:
        return JobBatch("results", log).run(jobs, pool, session.observer).failed
