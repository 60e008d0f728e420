"""`lethe audit`: probes models of a sweep, or any folder, for what they still know of the forget set although
it may not show.

Audits are no trials and count towards no budget. Each has a file of its own beside the sweep, named by what
was asked in which way, so that a killed driver repeats only what was running.
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
    """One audit on the lanes; its lane writes the result, and this notes it as the newest of its model.

    The caller holds the sweep's lock: there is one writer.
    """

    subject: Subject
    audit_job: EvaluateJob
    folder: SweepFolder

    @property
    def name(self) -> str:
        """As people see it: `audit t0007@2`."""
        return f"audit {self.subject.name}"

    @property
    def done(self) -> bool:
        """Whether an earlier call has made it."""
        return Path(self.audit_job.output).is_file()

    def job(self) -> EvaluateJob:
        """What `plan_audits` gave."""
        return self.audit_job

    def keep(self, result: Mapping[str, Any]) -> str:
        """Note the file that the lane has written."""
        note_audit(self.folder, self.subject, Path(self.audit_job.output))
        found = self.read()
        return f"{len(found.hidden)} of {found.facts} facts look forgotten and are not"

    def fail(self, reason: str) -> str:
        """Nothing is kept: the next call tries again."""
        return f"failed: {reason}"

    def read(self) -> Audit:
        """The audit, once it is done."""
        return read_audit(self.subject, Path(self.audit_job.output))


def plan_audits(
    subjects: Sequence[Subject],
    sweep: SweepSettings,
    evaluation: EvaluationSettings,
    retrained: Path | None,
    folder: SweepFolder,
) -> list[AuditTask]:
    """One task per subject, done or not.

    Args:
        subjects: What is audited.
        sweep: Its model, data and engine are the subjects' too.
        evaluation: Says which probes are made, and how.
        retrained: Measurement of the retrained model, where there is one.
        folder: Where results are kept.
    """
    way = audit_way(sweep, evaluation)
    return [
        AuditTask(
            subject,
            EvaluateJob(
                name=subject.name,
                model=sweep.model,
                data=sweep.data,
                folder=subject.folder,
                output=str(folder.path / "audits" / f"{_file_name(subject)}-{way}.json"),
                parts=("test",),
                retrained=str(retrained) if retrained else None,
                redact=sweep.redact,
                evaluation=evaluation,
                engine=sweep.trial.engine,
            ),
            folder,
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


def _file_name(subject: Subject) -> str:
    """Fit for a file, and of this folder alone: a path is no name, and another model may come to lie under
    the same name."""
    digest = hashlib.sha256(subject.folder.encode()).hexdigest()[:8]
    name = "".join(letter if letter.isalnum() or letter in "@_." else "_" for letter in subject.name)
    return f"{name[-60:]}-{digest}"
