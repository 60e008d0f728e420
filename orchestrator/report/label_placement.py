"""Places names beside marks in a still picture so that no name covers another name or a mark that matters."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from orchestrator.report.palette import GREY

_RADII = (1.0, 1.5, 2.2, 3.2, 4.5, 6.0, 8.0)
"""Distances of a name from its mark that are tried, in heights of the text."""

_DIRECTIONS = tuple(math.radians(angle) for angle in (45, 315, 135, 225, 0, 180, 90, 270, 22, 338, 158, 202))
"""Directions that are tried, the preferred ones first."""

_LED_FROM = 2.0
"""Distance in heights of the text from which a thin line leads from the mark to its name."""

_AIR = 3.0
"""Least distance between two names in pixels."""

_COVERED_MARK = 3.0
"""Cost of covering a further mark, in heights of the text that the name could go away instead."""


@dataclass(frozen=True)
class Label:
    """A name that stands beside a mark."""

    text: str
    place: tuple[float, float]
    """The mark's centre in data coordinates."""
    size: float
    """The mark's area in square points, as matplotlib's `scatter` takes it."""
    important: bool = False
    """Whether other names must not cover the mark, and the name is drawn in bold even if there is no room."""


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Writes names beside their marks.

    Important labels come first, then the others in their order; each takes the nearest free place. A name
    without a free place is left out: the HTML report shows it under the pointer. The layout of the figure
    stays as it is from then on, so all else has to be drawn before.

    Args:
        axes: Where the marks are.
        labels: The names and their marks.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    # The positions in pixels are only known once the layout engine has run.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    frame = axes.get_window_extent()
    marks = [_mark_box(axes, label) for label in labels]
    legend = axes.get_legend()
    taken = [mark for label, mark in zip(labels, marks, strict=True) if label.important]
    taken += [] if legend is None else [legend.get_window_extent()]
    for label, mark in sorted(zip(labels, marks, strict=True), key=lambda pair: not pair[0].important):
        measured = axes.text(0, 0, label.text, **_font(label))
        size = measured.get_window_extent()
        measured.remove()
        others = [other for other in marks if other is not mark]
        free = (box for box in _candidates(mark, size, frame) if not _meets(box, taken))
        best = min(free, key=lambda box: _cost(box, mark, others), default=None)
        if best is None and label.important:
            best = next(_candidates(mark, size, frame), None)
        if best is not None:
            _write(axes, label, mark, best)
            taken.append(best)


def _font(label: Label) -> dict[str, Any]:
    return {"fontsize": 11, "weight": "bold"} if label.important else {"fontsize": 9}


def _mark_box(axes: Axes, label: Label) -> Bbox:
    x, y = axes.transData.transform(label.place)
    half = math.sqrt(label.size) * _pixels_per_point(axes) / 2
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _pixels_per_point(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return float(figure.dpi) / 72


def _candidates(mark: Bbox, size: Bbox, frame: Bbox) -> Iterator[Bbox]:
    """Yields boxes for a name outside its mark and inside the axes, near ones first."""
    x, y = (mark.x0 + mark.x1) / 2, (mark.y0 + mark.y1) / 2
    for radius in _RADII:
        for direction in _DIRECTIONS:
            across = math.cos(direction) * (mark.width / 2 + size.width / 2 + (radius - 1) * size.height)
            up = math.sin(direction) * (mark.height / 2 + radius * size.height)
            left, low = x + across - size.width / 2, y + up - size.height / 2
            box = Bbox.from_bounds(left, low, size.width, size.height)
            if not box.overlaps(mark) and _contains(frame, box):
                yield box


def _contains(frame: Bbox, box: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def _meets(box: Bbox, others: Iterable[Bbox]) -> bool:
    # With a little air, so that two names beside each other do not read as one.
    padded = box.padded(_AIR)
    return any(padded.overlaps(other) for other in others)


def _cost(box: Bbox, mark: Bbox, others: Sequence[Bbox]) -> float:
    covered = sum(box.overlaps(other) for other in others)
    return _distance(box, mark) / box.height + _COVERED_MARK * covered


def _distance(box: Bbox, mark: Bbox) -> float:
    """Returns the gap between a box and a mark."""
    across = max(box.x0 - mark.x1, mark.x0 - box.x1, 0.0)
    up = max(box.y0 - mark.y1, mark.y0 - box.y1, 0.0)
    return math.hypot(across, up)


def _write(axes: Axes, label: Label, mark: Bbox, box: Bbox) -> Text:
    x, y = (mark.x0 + mark.x1) / 2, (mark.y0 + mark.y1) / 2
    scale = _pixels_per_point(axes)
    far = _distance(box, mark) > _LED_FROM * box.height
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 2}
    offset = ((box.x0 + box.x1) / 2 - x) / scale, ((box.y0 + box.y1) / 2 - y) / scale
    text = axes.annotate(
        label.text,
        label.place,
        offset,
        textcoords="offset points",
        ha="center",
        va="center",
        zorder=7,
        arrowprops=line if far else None,
        **_font(label),
    )
    # A name must not move the layout by which it was placed.
    text.set_in_layout(False)
    return text
