"""`lethe audit`: probes models of a sweep, or any folder, for what they still know of the forget set although it may not show.

Audits are no trials and count towards no budget. Each has a file of its own beside the sweep, named by what was asked in which way, so that
a killed driver repeats only what was running.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.lanes.job_queue import LostError
from orchestrator.storage.baselines import MEASUREMENT_VERSION, OnProgress
from orchestrator.storage.followup_records import Audit, Subject, note_audit, read_audit
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError
from trainables.jobs import AuditJob

if TYPE_CHECKING:
    # Only for its name: reading audits must not wait for Ray.
    from orchestrator.lanes.lane_pool import LanePool


def plan_audits(
    subjects: Sequence[Subject], sweep: SweepSettings, evaluation: EvaluationSettings, retrained: Path | None, folder: SweepFolder
) -> list[AuditJob]:
    """One job per subject, finished or not; `output` says by its presence which are.

    Args:
        subjects: What is audited.
        sweep: Its model, data and engine are the subjects' too.
        evaluation: Says which probes are made, and how.
        retrained: Measurement of the retrained model, where there is one.
        folder: Where results are kept.
    """
    way = audit_way(sweep, evaluation)
    return [
        AuditJob(
            name=subject.name,
            model=sweep.model,
            data=sweep.data,
            folder=subject.folder,
            output=str(folder.path / "audits" / f"{_file_name(subject)}-{way}.json"),
            retrained=str(retrained) if retrained else None,
            redact=sweep.redact,
            evaluation=evaluation,
            engine=sweep.trial.engine,
        )
        for subject in subjects
    ]


def audit_way(sweep: SweepSettings, evaluation: EvaluationSettings) -> str:
    """Names what was asked in which way: audits with the same name can be compared."""
    made_from = {
        "data": sweep.data.model_dump(),
        "evaluation": evaluation.model_dump(),
        "dtype": sweep.model.dtype,
        "system_prompt": sweep.model.system_prompt,
        "redact": sweep.redact,
        "version": MEASUREMENT_VERSION,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]


def run_audits(
    subjects: Sequence[Subject],
    jobs: Sequence[AuditJob],
    pool: "LanePool | None",
    folder: SweepFolder,
    say: Callable[[str], None],
    stage: OnProgress,
) -> list[Audit]:
    """Run the audits that are missing on warm lanes, and note each as soon as it and those before it are there.

    Args:
        subjects: What is audited.
        jobs: What `plan_audits` gave for them.
        pool: Lanes of the sweep's own kind; None where nothing is missing.
        folder: The sweep's files. The caller holds its lock.
        say: Prints a line that stays.
        stage: Told what is going on, and how far the oldest running audit is.

    Returns:
        Audits of the subjects that could be audited.

    Raises:
        LostError: No lane is left. The same call goes on with what is missing.
    """
    folder.stop_request.unlink(missing_ok=True)
    missing = [job for job in jobs if not Path(job.output).is_file()]
    title = f"auditing {len(missing)} model{'s' * (len(missing) != 1)}"
    if pool is not None:
        stage(title, {})
        for job in missing:
            pool.submit(f"audit {job.name}", job)
    audits = []
    for place, (subject, job) in enumerate(zip(subjects, jobs, strict=True), start=1):
        if not Path(job.output).is_file():
            assert pool is not None, "lanes are started where something is missing"
            try:
                pool.wait(f"audit {job.name}", partial(stage, title))
            except LostError as error:
                raise LostError(
                    f"{len(subjects) - place + 1} audits are missing: {error.message}",
                    file=str(folder.driver_log),
                    remedy="mend the cause and run the same command again: it goes on where it was",
                ) from error
            except UserError as error:
                say(f"{job.name} [{place}/{len(jobs)}]: {error.message}")
                continue
        audits.append(read_audit(subject, Path(job.output)))
        note_audit(folder, subject, Path(job.output))
        say(f"{job.name} [{place}/{len(jobs)}]: {len(audits[-1].hidden)} of {audits[-1].facts} facts look forgotten and are not")
        if folder.stop_request.exists():
            say(f"stopped by `lethe stop` with {len(jobs) - place} audits left; the same command goes on with them")
            break
    return audits


def _file_name(subject: Subject) -> str:
    """Fit for a file, and of this folder alone: a path is no name, and another model may come to lie under the same name."""
    digest = hashlib.sha256(subject.folder.encode()).hexdigest()[:8]
    return f"{''.join(letter if letter.isalnum() or letter in '@_.' else '_' for letter in subject.name)[-60:]}-{digest}"
