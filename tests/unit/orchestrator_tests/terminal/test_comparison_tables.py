import io
import json

import pytest
from PIL import Image
from rich.console import Console

from orchestrator.followups.comparison import compare
from orchestrator.report.comparison_picture import draw_comparison
from orchestrator.terminal.comparison_tables import comparison_json, show_comparison
from search_spaces.user_errors import UserError
from tests.support.sweeps.sweep_pair import HYPERVOLUME, confirmed, view

ONE_OBJECTIVE = {"objectives": {"mass": {"direction": "minimize", "reference": 1.0}}}


def comparison(**more):
    first = view("careful", confirmations=confirmed((0, 1, 2), (1, 2, 3)), **more)
    return compare([first, view("hasty", (0.4, 0.6), **more)], ["a", "b"])


def shown(found):
    text = io.StringIO()
    show_comparison(found, Console(file=text, width=140, markup=False))
    return text.getvalue()


def test_table_has_a_column_for_each_sweep_and_says_what_the_intervals_mean():
    text = shown(comparison())
    cells = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]]
        for line in text.splitlines()
        if "│" in line
    }
    assert cells["trials"] == ["3", "1"]
    assert cells["hypervolume"] == [f"{HYPERVOLUME:.4f}", "0.3600"]
    assert cells["95 % interval (over)"][0].endswith("(seeds)") and cells["95 % interval (over)"][1] == ""
    assert cells["original mass"] == ["0.9000", "0.9000"] and cells["retrained mass"] == ["", ""]
    assert "over seeds: 95 % t-interval" in text and "over trials:" not in text
    assert "warning: hasty has other data than careful" in text


def test_bootstrap_is_explained_where_it_is_used():
    text = " ".join(shown(compare([view("one"), view("two")], ["a", "a"])).split())
    assert (
        "over trials: bootstrap over the trials of the search" in text and "not how much seeds differ" in text
    )


def test_json_tells_the_same():
    found = json.loads(json.dumps(comparison_json(comparison())))
    first, second = found["sweeps"]
    assert found["reference_point"] == {"mass": 1.0, "utility": 0.0}
    assert first["hypervolume_interval"]["source"] == "seeds" and first["confirmed_hypervolume"]["count"] == 3
    assert second["hypervolume_interval"] is None and second["confirmed_hypervolume"] is None
    assert second["front"] == [{"name": "t0000", "objectives": {"mass": 0.4, "utility": 0.6}}]
    assert second["baselines"] == {
        "original": {"mass": 0.9, "utility": 0.9},
        "prompted": None,
        "retrained": None,
        "retrained_twin": None,
    }


@pytest.mark.parametrize(("blocks", "width"), [(None, 1500), (ONE_OBJECTIVE, 800)])
def test_picture_is_drawn_also_of_a_lone_objective(tmp_path, blocks, width):
    draw_comparison(tmp_path / "fronts.png", comparison(blocks=blocks))
    with Image.open(tmp_path / "fronts.png") as image:
        assert image.width == width


def test_picture_of_sweeps_without_results_is_drawn(tmp_path):
    draw_comparison(
        tmp_path / "fronts.png", compare([view("one", records=[]), view("two", records=[])], ["a", "a"])
    )
    assert (tmp_path / "fronts.png").is_file()


def test_picture_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--png: the picture cannot be written"):
        draw_comparison(tmp_path / "file" / "fronts.png", comparison())
