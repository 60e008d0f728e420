"""`lethe audit`: probes models for knowledge of the forget set that the evaluation does not bring out.

Audits are not trials and count towards no budget. Each has a file of its own, named by the model and by a
hash of the probes' settings, so that a restarted driver runs only the audits that are missing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.lanes.job_batch import JobTask
from orchestrator.storage.baselines import MEASUREMENT_VERSION
from orchestrator.storage.followup_records import Audit, Subject, note_audit, read_audit
from orchestrator.storage.sweep_folder import SweepFolder
from search_spaces.settings.evaluation_settings import EvaluationSettings
from search_spaces.settings.sweep_settings import SweepSettings
from trainables.jobs import EvaluateJob


@dataclass(frozen=True)
class AuditTask(JobTask):
    """The audit of one model on a lane: the worker writes the result, and the task notes it as the newest.

    The caller holds the sweep's lock, so no other process writes the index of audits.
    """

    subject: Subject
    audit_job: EvaluateJob
    folder: SweepFolder

    @property
    def name(self) -> str:
        """The task's name in messages: `audit t0007@2`."""
        return f"audit {self.subject.name}"

    @property
    def done(self) -> bool:
        """Whether the result exists, from this call or an earlier one."""
        # Workers write the file atomically, so one that exists is complete.
        return Path(self.audit_job.output).is_file()

    def job(self) -> EvaluateJob:
        """Returns the job that `plan_audits` made."""
        return self.audit_job

    def keep(self, result: Mapping[str, Any]) -> str:
        """Notes the file that the worker has written as the newest audit of its model."""
        note_audit(self.folder, self.subject, Path(self.audit_job.output))
        audit = self.read()
        return f"{len(audit.hidden)} of {audit.facts} facts look forgotten and are not"

    def fail(self, reason: str) -> str:
        """Keeps nothing, so that the next call tries again."""
        return f"failed: {reason}"

    def read(self) -> Audit:
        """Reads the result, which must exist."""
        return read_audit(self.subject, Path(self.audit_job.output))


def plan_audits(
    subjects: Sequence[Subject],
    sweep: SweepSettings,
    evaluation: EvaluationSettings,
    retrained: Path | None,
    folder: SweepFolder,
) -> list[AuditTask]:
    """Returns one task per model, including those whose result exists.

    Args:
        subjects: The models to audit.
        sweep: Settings whose model, data and engine apply to all subjects.
        evaluation: Which probes are made, and their settings.
        retrained: Measurement of the retrained model, if there is one.
        folder: Files of the sweep, among which the results are kept.
    """
    settings_hash = hash_audit_settings(sweep, evaluation)
    tasks = []
    for subject in subjects:
        job = EvaluateJob(
            name=subject.name,
            model=sweep.model,
            data=sweep.data,
            folder=subject.folder,
            output=str(folder.path / "audits" / f"{_file_name(subject)}-{settings_hash}.json"),
            # The search has optimised for the validation part.
            parts=("test",),
            retrained=str(retrained) if retrained else None,
            redact=sweep.redact,
            evaluation=evaluation,
            engine=sweep.trial.engine,
        )
        tasks.append(AuditTask(subject, job, folder))
    return tasks


def hash_audit_settings(sweep: SweepSettings, evaluation: EvaluationSettings) -> str:
    """Returns a hash of everything that an audit depends on besides its model, as 12 hexadecimal digits.

    Audits with equal hashes are comparable.
    """
    settings = {
        "data": sweep.data.model_dump(),
        "evaluation": evaluation.model_dump(),
        "dtype": sweep.model.dtype,
        "system_prompt": sweep.model.system_prompt,
        "redact": sweep.redact,
        "version": MEASUREMENT_VERSION,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _file_name(subject: Subject) -> str:
    """Returns a name for the subject's file that is valid, and unique to the folder of its weights."""
    # The same name may belong to another model later: `lethe audit --model ./model` in another directory.
    digest = hashlib.sha256(subject.folder.encode()).hexdigest()[:8]
    name = "".join(letter if letter.isalnum() or letter in "@_." else "_" for letter in subject.name)
    # File systems limit names to 255 bytes; the end of a path says most.
    return f"{name[-60:]}-{digest}"
