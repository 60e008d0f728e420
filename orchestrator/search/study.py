"""The Optuna study of a sweep: its trials, their results, and the next trial.

The journal file is the only source of truth about a sweep. All state is rebuilt from it at each start, so a
killed driver loses nothing. A trial enters the journal in one record, complete with its parameters, and its
end is one write, so that a kill leaves half of neither behind. Samplers never read the journal: they read an
in-memory storage that follows it (`sampler_memory`).
"""

import threading
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.pareto.objectives import criteria_of
from orchestrator.search.proposer import Proposer, constraint_attrs
from orchestrator.search.selected_rung import (
    not_a_number,
    sampler_values,
    selected_rung,
    violations,
    why_failed,
)
from orchestrator.search.study_journal import StudyJournal
from orchestrator.search.trial_attributes import (
    END,
    REACHED,
    STARTED,
    STATES,
    interrupted_attributes,
    record_of,
    rung_key,
    rungs_of,
)
from orchestrator.storage.trial_records import ProposedTrial, Status, TrialRecord, trial_id
from search_spaces.settings.sweep_settings import SweepSettings
from search_spaces.user_errors import UserError

# PED-ANOVA compares the best trials with all trials, and needs about five among the best.
_FEWEST_TRIALS_FOR_IMPORTANCE = 10
_BEST_TRIALS_FOR_IMPORTANCE = 5


class Study:
    """The trials of a sweep in an Optuna journal.

    Thread-safe within the one driver that has opened it.
    """

    def __init__(
        self,
        study: optuna.Study,
        journal: StudyJournal,
        sweep: SweepSettings,
        proposer: Proposer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._study, self._journal, self._sweep, self._proposer, self._clock = (
            study,
            journal,
            sweep,
            proposer,
            clock,
        )
        self._criteria = criteria_of(sweep)
        self._study_id = journal.get_study_id_from_name(sweep.name)
        self._lock = threading.RLock()
        self._interrupted: deque[int] = deque()
        # Counted here, because Optuna would build a list of all trials at every ask.
        self._count = len(study.get_trials(deepcopy=False))
        self._notes: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for name, value in journal.get_study_user_attrs(self._study_id).items():
            trial, _, key = name.partition(":")
            self._notes[trial][key] = value

    @classmethod
    def open(
        cls,
        journal: Path,
        sweep: SweepSettings,
        warm: Sequence[TrialRecord] = (),
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Creates the sweep's study or resumes it, for the driver that runs the sweep.

        Trials that a dead driver left running are proposed again by `ask`. A trial whose end was only partly
        written is ended now.

        Args:
            journal: File of the study, created along with its folder. The caller must hold the sweep's lock,
                so that there is one writer.
            sweep: Settings with objectives filled in.
            warm: Trials of other sweeps that the sampler learns from; they must be the same at every start
                (`orchestrator.search.warm_start.warm_trials`).
            clock: Returns Unix time in seconds; a simulation passes its own.

        Returns:
            The study, ready for `ask`.

        Raises:
            OSError: The file cannot be written.
        """
        journal.parent.mkdir(parents=True, exist_ok=True)
        storage, criteria = StudyJournal(journal, repair=True), criteria_of(sweep)
        # This sampler is never used: the proposer samples from its own in-memory study.
        study = optuna.create_study(
            storage=storage,
            study_name=sweep.name,
            directions=[objective.direction for objective in criteria.objectives],
            load_if_exists=True,
            sampler=RandomSampler(seed=0),
        )
        # Optuna's dashboard and data frames show the metric names. Setting them is marked as experimental.
        if study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
                study.set_metric_names([objective.name for objective in criteria.objectives])
        proposer = Proposer(sweep, criteria, warm)
        for trial in study.get_trials(deepcopy=False):
            proposer.take(trial)
        opened = cls(study, storage, sweep, proposer, clock)
        opened._resume()
        return opened

    @classmethod
    def read(cls, journal: Path, sweep: SweepSettings) -> Self:
        """Opens the study read-only, while its driver runs or afterwards.

        Raises:
            UserError: The file does not exist or holds no study.
        """
        missing = UserError(
            "this sweep has no study yet",
            file=str(journal),
            remedy="Start it with `lethe run`, or check its name and the storage folder.",
        )
        if not journal.is_file():
            raise missing
        storage = StudyJournal(journal, repair=False)
        try:
            study = optuna.load_study(study_name=sweep.name, storage=storage, sampler=RandomSampler(seed=0))
        except KeyError as error:
            raise missing from error
        return cls(study, storage, sweep)

    def ask(self) -> ProposedTrial | None:
        """Returns the next trial to run.

        Interrupted trials come first, each once per driver, then recipes, then enqueued entries, then the
        sampler's trials. No two trials of a sweep have the same parameters. A new trial depends only on the
        seed, its number and the trials before it, so a resumed sweep goes on as it would have without the
        interruption.

        Returns:
            The trial; None when the budget of trials is used up, or when every point of the space has been
            tried (then `exhausted` is set).
        """
        assert self._proposer is not None, "opened for reading"
        with self._lock:
            if self._interrupted:
                number = self._interrupted.popleft()
                self._set(number, {STARTED: self._clock()})
            else:
                number = self._count
                proposal = self._proposer.propose(number) if number < self._sweep.search.trials else None
                if proposal is None:
                    return None
                proposal.set_user_attr(STARTED, self._clock())
                self._study.add_trial(proposal)
                self._count += 1
                self._proposer.take(self._trial(number))
            # Read back from the journal, so that a trial that is repeated gets bit-identical parameters.
            return ProposedTrial(number, dict(self._trial(number).params))

    @property
    def exhausted(self) -> bool:
        """Whether every point of the space has been tried, as found by the last `ask`."""
        return self._proposer is not None and self._proposer.exhausted

    @property
    def ask_s(self) -> float:
        """Time that this driver has spent in the sampler, in seconds."""
        return self._proposer.ask_s if self._proposer is not None else 0.0

    def remaining(self) -> int:
        """Returns how many trials `ask` will still return, unless the space is exhausted before."""
        with self._lock:
            return len(self._interrupted) + max(0, self._sweep.search.trials - self._count)

    def tell_rung(self, number: int, rung: int, metrics: Mapping[str, float]) -> None:
        """Stores the metrics of a rung. Changes nothing once the trial has ended.

        Args:
            number: Number of the trial.
            rung: The rung, counted from 1.
            metrics: Metrics with keys such as `validation/utility`.
        """
        self._note_rung(number, rung, metrics, {})

    def tell_test(self, number: int, rung: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics of the test part to a stored rung. Changes nothing once the trial has ended."""
        with self._lock:
            self._note_rung(number, rung, metrics, self._trial(number).user_attrs.get(rung_key(rung)) or {})

    def finish(self, number: int) -> None:
        """Ends a trial that has reached its last rung; the metrics stored at its rungs are its result.

        The sampler sees the rung that `search.select` selects, on the validation part. A trial whose last
        rung lacks a finite objective, or that has a NaN at any rung, has failed. Ending a trial a second time
        changes nothing: the first end counts.
        """
        with self._lock:
            reason = why_failed(rungs_of(self._trial(number)), self._criteria)
            self._end(number, "finished" if reason is None else "failed", reason)

    def stop(self, number: int, reason: str) -> None:
        """Ends a trial at a rung before its last one, with the rungs reached so far as its result.

        The trial has failed instead if any of these rungs has a NaN.
        """
        with self._lock:
            wrong = not_a_number(rungs_of(self._trial(number)))
            self._end(number, "stopped" if wrong is None else "failed", wrong or reason)

    def fail(self, number: int, reason: str) -> None:
        """Ends a trial as failed, with a reason for the user. Changes nothing once the trial has ended."""
        self._end(number, "failed", reason)

    def record(self, number: int) -> TrialRecord:
        """Returns one trial."""
        return record_of(self._trial(number), self.annotations(number))

    def records(self) -> list[TrialRecord]:
        """Returns all trials, in the order of their numbers."""
        return [
            record_of(trial, self.annotations(trial.number))
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def annotate(self, number: int, key: str, value: Any) -> None:
        """Stores an annotation of a trial, which is possible also after its end.

        For example, `mlflow_run_id` is known late when the tracking server was unreachable.

        Args:
            number: Number of the trial.
            key: Name of the annotation.
            value: Plain data for JSON.
        """
        with self._lock:
            # An attribute of the study, because Optuna makes a trial's attributes read-only when it ends.
            self._journal.set_study_user_attr(self._study_id, f"{trial_id(number)}:{key}", value)
            self._notes[trial_id(number)][key] = value

    def annotations(self, number: int) -> dict[str, Any]:
        """Returns all annotations of a trial."""
        return dict(self._notes.get(trial_id(number), {}))

    def importances(self, objective: str) -> dict[str, float]:
        """Computes the importance of each searched key for one objective, by PED-ANOVA.

        A key is important if its values differ between the best finished trials and all finished trials.

        Args:
            objective: Name of the objective.

        Returns:
            Space key -> share, most important first, adding up to 1; conditional keys are included. Empty
            with fewer than ten finished trials.

        Source:
            PED-ANOVA, arXiv 2304.10255, and its conditional form, arXiv 2601.20800.
        """
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(finished) < _FEWEST_TRIALS_FOR_IMPORTANCE or not any(
            trial.distributions for trial in finished
        ):
            return {}
        index = [item.name for item in self._criteria.objectives].index(objective)
        # The evaluator treats low values as good, whatever the study's direction.
        sign = 1 if self._criteria.objectives[index].direction == "minimize" else -1
        # The best tenth, but at least five trials.
        quantile = max(0.1, _BEST_TRIALS_FOR_IMPORTANCE / len(finished))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UserWarning)
            shares = optuna.importance.get_param_importances(
                self._study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile),
                target=lambda trial: sign * trial.values[index],
            )
        return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks, and with them this study, into files that are never read back. An open
        # journal with its locks cannot be pickled.
        return {}

    def _resume(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # A kill between the records of `_end`: the END attribute is written first and holds all that the
            # other records need.
            end = trial.user_attrs.get(END)
            if end is not None:
                self._end(trial.number, end["status"], end["reason"], end["at"])
                continue
            if changes := interrupted_attributes(trial):
                self._set(trial.number, changes)
            self._interrupted.append(trial.number)

    def _note_rung(
        self, number: int, rung: int, metrics: Mapping[str, float], known: Mapping[str, float]
    ) -> None:
        with self._lock:
            if self._trial(number).state == TrialState.RUNNING:
                plain = {key: float(value) for key, value in metrics.items()}
                self._set(number, {rung_key(rung): {**known, **plain}, REACHED: self._clock()})

    def _end(self, number: int, status: Status, reason: str | None, at: float | None = None) -> None:
        with self._lock:
            trial = self._trial(number)
            if trial.state != TrialState.RUNNING:
                return
            rungs = rungs_of(trial)
            rung = selected_rung(rungs, self._criteria) if status != "failed" else None
            values = (
                sampler_values(rungs[rung - 1], self._criteria)
                if rung is not None and status == "finished"
                else None
            )
            limits = violations(rungs[rung - 1], self._criteria) if rung is not None else {}
            own_id = self._trial_id(number)
            with self._journal.batched(durable=True):
                end = {
                    "status": status,
                    "reason": reason,
                    "at": self._clock() if at is None else at,
                    "rung": rung,
                }
                self._journal.set_trial_user_attr(own_id, END, end)
                for key, value in constraint_attrs(limits).items():
                    self._journal.set_trial_system_attr(own_id, key, value)
                self._journal.set_trial_state_values(own_id, STATES[status], values)
            if self._proposer is not None:
                self._proposer.take(self._trial(number))

    def _set(self, number: int, attrs: Mapping[str, Any]) -> None:
        own_id = self._trial_id(number)
        with self._journal.batched():
            for key, value in attrs.items():
                self._journal.set_trial_user_attr(own_id, key, value)

    def _trial(self, number: int) -> FrozenTrial:
        return self._journal.get_trial(self._trial_id(number))

    def _trial_id(self, number: int) -> int:
        return self._journal.get_trial_id_from_study_id_trial_number(self._study_id, number)
