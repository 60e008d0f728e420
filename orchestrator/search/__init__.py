"""The search: which trials there are, what came out of them, and which one is next. The only package that knows Optuna."""

from orchestrator.search.study import Study

__all__ = ["Study"]
