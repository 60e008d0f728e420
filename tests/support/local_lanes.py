"""Lanes in this process: their jobs end one after another, as a test says."""

from pathlib import Path

from orchestrator.lanes.job_queue import JobNews
from orchestrator.storage.baselines import plan_baselines
from trainables.benchmarks.registry import load_benchmark
from trainables.events import StepDone


class LocalLanes:
    """Lanes that end one job at each call of `news`.

    Args:
        end: Returns the outcome of a job, given its name and the job.
        order: Names in the order in which their jobs end; other jobs end in the order of submission.
    """

    def __init__(self, end, order=()):
        self.end, self.order = end, list(order)
        self.jobs, self.decisions, self.ended = {}, {}, []

    def submit(self, job_name, job):
        self.jobs[job_name] = job

    def decide(self, job_name, rung, decision):
        self.decisions.setdefault(job_name, {})[rung] = decision

    def news(self, seen):
        name = next((name for name in self.order if name in seen), next(iter(seen)))
        self.ended.append((name, len(self.jobs)))
        return {name: JobNews([], StepDone(1, 2, 0.1), self.end(name, self.jobs[name]))}


class Observer:
    """Records what people would be shown.

    Args:
        on_line: Called with all lines so far after each one.

    Attributes:
        lines: The printed lines.
        stages: The stages in order, without repetitions.
    """

    def __init__(self, on_line=lambda lines: None):
        self.lines, self.stages, self._on_line = [], [], on_line

    def say(self, line):
        self.lines.append(line)
        self._on_line(self.lines)

    def stage(self, name, progress=None):
        if name not in self.stages[-1:]:
            self.stages.append(name)


def plan_of(sweep, models: Path):
    """Returns the plan of a sweep's baselines; the data is loaded for it."""
    benchmark = load_benchmark(sweep.data, redact=sweep.redact)
    return plan_baselines(sweep, models, benchmark.digest)
