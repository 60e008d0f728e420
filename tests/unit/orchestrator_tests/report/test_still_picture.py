from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from orchestrator.report.still_picture import draw_front
from orchestrator.storage.trial_records import TrialRecord
from tests.support.sweeps.finished_sweep import records, sweep, view

STEP = 0.004
"""Between neighbours on the front: a few pixels."""

HALF = 230**0.5 * 100 / 72 / 2
"""Half of the width of a baseline's mark in pixels."""


def close_front(count, near):
    """A front of so many members close to a point; each has its trial."""
    found = []
    for number in range(count):
        values = {
            "forget_true_mass": near[0] + STEP * number,
            "utility": near[1] + STEP * number,
            "forget_coherence": 0.5,
        }
        rung = {f"{part}/{name}": value for part in ("validation", "test") for name, value in values.items()}
        params = {"forget.method": "npo", "beliefs": "none"}
        found.append(TrialRecord(f"t{number:04d}", number, "finished", params, rung, [rung]))
    return found


def drawn(settings):
    """Bounding boxes in pixels of all texts on the front's axes by text, and of the baselines' marks."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_front(axes, settings)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for text in axes.texts if text.get_text()]
    # The extent of a collection is that of its axes, so the marks' boxes are computed here.
    centres = [marks.get_offsets()[0] for marks in axes.collections if marks.get_gid() == "baseline"]
    places = axes.transData.transform(centres) if centres else []
    marks = [Bbox.from_bounds(x - HALF, y - HALF, 2 * HALF, 2 * HALF) for x, y in places]
    return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in texts], marks, axes


def collisions(boxes, marks):
    found = [
        (one, other)
        for index, (one, box) in enumerate(boxes)
        for other, beside in boxes[index + 1 :]
        if box.overlaps(beside)
    ]
    return found + [(name, "mark") for name, box in boxes for mark in marks if box.overlaps(mark)]


@pytest.mark.parametrize(
    ("count", "near"),
    [
        *((15, near) for near in ((0.06, 0.9), (0.5, 0.5), (0.95, 0.94))),
        (2, (0.06, 0.9)),
        *(pytest.param(2, near, marks=pytest.mark.soak) for near in ((0.5, 0.5), (0.95, 0.94))),
        *(pytest.param(6, near, marks=pytest.mark.soak) for near in ((0.06, 0.9), (0.5, 0.5), (0.95, 0.94))),
    ],
)
def test_names_of_close_members_cover_neither_each_other_nor_the_baselines(count, near):
    boxes, marks, _ = drawn(view(records=close_front(count, near), importances={}))
    assert len(marks) == 2
    assert collisions(boxes, marks) == []
    assert {"original model", "retrained model"} <= {name for name, _ in boxes}


def test_names_of_close_baselines_do_not_cover_each_other():
    same = view().baselines["original"]
    twins = {name: same for name in ("original", "prompted", "retrained", "retrained_twin")}
    boxes, marks, _ = drawn(view(records=close_front(3, (0.9, 0.9)), baselines=twins, importances={}))
    assert collisions(boxes, marks) == [] and len(boxes) >= 5


def test_names_stay_inside_the_axes():
    for near in ((0.0, 0.0), (0.99, 0.99)):
        boxes, _, axes = drawn(view(records=close_front(4, near), baselines={}, importances={}))
        frame = axes.get_window_extent()
        corners = [corner for _, box in boxes for corner in box.corners()]
        assert corners and all(frame.padded(1).contains(*corner) for corner in corners)


def test_all_members_with_room_are_named():
    boxes, _, _ = drawn(view(records=close_front(6, (0.5, 0.5)), baselines={}, importances={}))
    assert {name for name, _ in boxes} == {f"t{number:04d}" for number in range(6)}


def test_front_of_a_lone_objective_and_of_a_whole_sweep_are_legible():
    lone = sweep(objectives={"utility": {"direction": "maximize", "reference": 0.0}})
    bare = [replace(record, rungs=record.rungs[-1:]) for record in records()]
    for settings in (view(), view(sweep=lone, records=bare, importances={})):
        boxes, marks, _ = drawn(settings)
        assert collisions(boxes, marks) == []
