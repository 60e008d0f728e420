"""Lanes in this process: jobs end as a test says, one after another."""

from pathlib import Path

from orchestrator.lanes.job_queue import JobNews
from orchestrator.storage.baselines import plan_baselines
from trainables.benchmarks.registry import load_benchmark
from trainables.events import StepDone


class LocalLanes:
    """Ends one job for every call of `news`, in the order of `order` or of submission.

    Args:
        end: Takes a job's name and the job; returns its outcome.
        order: Names in the order in which jobs end.
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
    """Remembers what people were shown.

    Attributes:
        lines: What was said.
        stages: What was going on, in order.
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
    """The plan of a sweep's baselines, with the data loaded on the way."""
    return plan_baselines(sweep, models, load_benchmark(sweep.data, redact=sweep.redact).digest)
