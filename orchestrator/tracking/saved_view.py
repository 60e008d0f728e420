"""Builds a saved view of MLflow's UI for a sweep: Pareto scatter, parallel coordinates and columns.

The format is internal to MLflow's UI. It was read from the UI's JavaScript bundle and tried in a browser, so
versions other than the tried ones get no view.
"""

import base64
import json
import re
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from orchestrator.storage.provenance import redacted
from search_spaces.settings.sweep_settings import SweepSettings

OLDEST, NEWEST = (3, 15), (3, 17)
"""Versions of MLflow whose UI reads this format."""

TAG = "mlflow.sharedViewState."
"""Prefix of the experiment tag that holds a view; the name of the view follows."""

KIND = "lethe.kind"
"""Tag of every run: `sweep`, `trial`, `confirmation` or `audit`."""

RUNS_LOADED = 100
"""Number of runs that the UI loads at first; a scatter plot shows no more."""

MOST_SCATTERS = 3
"""Limit on the scatter plots, one per pair of objectives: three objectives have three pairs."""

MOST_CONDITIONS = 3
"""Limit on the additional parallel-coordinates plots, for keys that only some trials have."""

_CARD_PIXELS = 300
"""Height of a chart: scatter and parallel coordinates together fit into a window of 1000 pixels."""

_TAG_CHARACTERS = 20000
"""MLflow's limit on the length of an experiment tag."""


@dataclass(frozen=True)
class SavedView:
    """A saved view as MLflow stores it."""

    name: str
    """Name of the view: equal for all starts of a sweep, so that a resume overwrites it."""
    value: str
    """Value of the experiment tag `TAG` + name."""

    @property
    def fits(self) -> bool:
        """Whether the value is within MLflow's limit on tags."""
        return len(self.value) <= _TAG_CHARACTERS


def is_supported(version: str) -> bool:
    """Returns whether the UI of a version of MLflow is known to read the format."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and OLDEST <= (int(numbers[1]), int(numbers[2])) <= NEWEST


def view_path(experiment_id: str, name: str) -> str:
    """Returns the path of a view, to be appended to the address of the UI."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={name}&compareRunsMode=CHART"


def saved_view(sweep: SweepSettings, identity: str, created_ms: int) -> SavedView:
    """Builds the view of one sweep.

    Args:
        sweep: Settings with objectives filled in.
        identity: Value of the tag `lethe.sweep_id` of the sweep's runs.
        created_ms: Unix time of creation in ms.

    Returns:
        Name and value of the view.
    """
    view = {"name": redacted(sweep.name), "createdAt": created_ms, "state": _packed(_state(sweep, identity))}
    return SavedView(f"lethe-{identity}", json.dumps(view))


def _state(sweep: SweepSettings, identity: str) -> dict[str, Any]:
    names = _Names(identity)
    metrics = [f"test/{name}" for name in sweep.objectives]
    pairs = list(combinations(metrics, 2))[:MOST_SCATTERS]
    # A trial has one point here, because MLflow plots the newest value of a metric. The report shows every
    # rung.
    scatter = names.section(
        "Pareto scatter: test part, each trial at its last measured rung", columns=len(pairs)
    )
    parallel = names.section("Parallel coordinates: settings and objectives", columns=1)
    charts = [
        names.chart("SCATTER", scatter, xaxis=_axis(x), yaxis=_axis(y), runsCountToCompare=RUNS_LOADED)
        for x, y in pairs
    ]
    charts += [
        names.chart("PARALLEL", parallel, selectedParams=keys, selectedMetrics=metrics, showAllRuns=False)
        for keys in _keys_together(sweep)
    ]
    tags = ("method", "beliefs", "status", "pareto.front")
    columns = [*_columns("metrics", metrics), *_columns("tags", tags), *_columns("params", sweep.space)]
    return {
        "compareRunCharts": charts,
        "compareRunSections": [scatter, parallel],
        # By default the UI sorts sections by name, which would put these below the sections that it generates
        # for all other metrics.
        "isAccordionReordered": True,
        "selectedColumns": columns,
        # The default hides all but the first ten runs.
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": None,
        # Confirmations and audits are not trials of the search, and would blur the front in the plots.
        "searchFilter": (
            f"tags.`lethe.sweep_id` = '{identity}' and tags.`{KIND}` != 'confirmation' and tags.`{KIND}` !="
            " 'audit'"
        ),
        # When sorted by time the UI nests child runs under a collapsed parent and does not plot collapsed
        # runs; it ignores the key `runsExpanded` of shared views. In any other order the runs are listed
        # flat. This order also loads the members of the front first if a sweep has more than RUNS_LOADED
        # runs.
        "orderByKey": "tags.`pareto.front`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }


class _Names:
    """Creates charts and sections with ids derived from the sweep: rewriting a view changes nothing."""

    def __init__(self, identity: str) -> None:
        self._identity, self._count = identity, 0

    def section(self, name: str, columns: int) -> dict[str, Any]:
        size = {"columns": columns, "cardHeight": _CARD_PIXELS}
        flags = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
        return {"uuid": self._next(), "name": name, **size, **flags}

    def chart(self, kind: str, section: Mapping[str, Any], **contents: Any) -> dict[str, Any]:
        place = {"metricSectionId": section["uuid"], "deleted": False, "isGenerated": False}
        return {"uuid": self._next(), "type": kind, **contents, **place}

    def _next(self) -> str:
        self._count += 1
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"lethe:{self._identity}:{self._count}"))


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _columns(kind: str, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]


def _keys_together(sweep: SweepSettings) -> Iterator[list[str]]:
    """Yields the keys of each parallel-coordinates plot.

    The UI leaves out trials that lack any key of a plot, so keys with different conditions need different
    plots.
    """
    always = [key for key, domain in sweep.space.items() if not domain.when]
    yield always
    conditions: list[dict[str, Any]] = []
    for domain in sweep.space.values():
        if domain.when and domain.when not in conditions:
            conditions.append(domain.when)
    for condition in conditions[:MOST_CONDITIONS]:
        # A key for which the condition allows a single value needs no axis.
        shared = [key for key in always if len(condition.get(key, ())) != 1]
        yield shared + [key for key, domain in sweep.space.items() if domain.when == condition]


def _packed(state: Mapping[str, Any]) -> str:
    # The UI's own encoding of shared views: a prefix, then base64 of the zlib stream.
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
