"""A section of the HTML report."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from orchestrator.pareto.sweep_view import SweepView


@dataclass(frozen=True)
class Section:
    """One section: a heading, a paragraph that explains the figure, and the figure with its tables."""

    title: str
    explanation: str
    content: Callable[[SweepView], str]
    """Returns the section's HTML below the explanation; empty where the sweep has nothing to show."""

    def html(self, view: SweepView) -> str:
        """Returns the whole section as HTML; empty without content, so that the report leaves it out."""
        content = self.content(view)
        if not content:
            return ""
        return f"<section><h2>{escape(self.title)}</h2><p>{escape(self.explanation)}</p>\n{content}</section>"
