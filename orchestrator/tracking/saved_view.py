"""The view on which MLflow's page of a sweep opens: Pareto scatter, parallel coordinates, columns. Written
down as MLflow's UI does it.

It is an internal format of the UI, read out of its bundle and tried in a browser: other versions than the
known ones get no view.
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
"""Experiment tag of a view; its name follows."""

KIND = "lethe.kind"
"""Tag of every run: `sweep`, `trial`, `confirmation` or `audit`."""

RUNS_LOADED = 100
"""The UI asks for so many at first, and a scatter shows no more."""

MOST_SCATTERS = 3
"""One for every pair of objectives, up to this: three objectives have three pairs."""

MOST_CONDITIONS = 3
"""Further parallel coordinates, for keys that only some trials have."""

_CARD_PIXELS = 300
"""Height of a chart: scatter and parallel coordinates fit into a window of 1000."""

_TAG_CHARACTERS = 20000
"""MLflow's limit of an experiment tag."""


@dataclass(frozen=True)
class SavedView:
    """A view as MLflow keeps it."""

    name: str
    """The same for every start of a sweep, so that a resume writes it again and leaves no second one."""
    value: str
    """Value of the experiment tag `TAG` + name."""

    @property
    def fits(self) -> bool:
        """Whether MLflow takes a tag of this length."""
        return len(self.value) <= _TAG_CHARACTERS


def knows(version: str) -> bool:
    """Whether the UI of this version of MLflow is known to read the format."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and OLDEST <= (int(numbers[1]), int(numbers[2])) <= NEWEST


def view_path(experiment_id: str, name: str) -> str:
    """What follows the address of the UI."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={name}&compareRunsMode=CHART"


def saved_view(sweep: SweepSettings, identity: str, created_ms: int) -> SavedView:
    """The view of one sweep.

    Args:
        sweep: Settings with objectives filled in.
        identity: Value of the tag `lethe.sweep_id` on its runs.
        created_ms: Unix time in ms.

    Returns:
        Name and value of the tag.
    """
    view = {"name": redacted(sweep.name), "createdAt": created_ms, "state": _packed(_state(sweep, identity))}
    return SavedView(f"lethe-{identity}", json.dumps(view))


def _state(sweep: SweepSettings, identity: str) -> dict[str, Any]:
    names = _Names(identity)
    metrics = [f"test/{name}" for name in sweep.objectives]
    pairs = list(combinations(metrics, 2))[:MOST_SCATTERS]
    # A trial has one point here: MLflow shows the newest value of a metric, and the report every rung.
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
        # Left to itself the UI sorts sections by name, and ours would come below those that it makes for all
        # other metrics.
        "isAccordionReordered": True,
        "selectedColumns": columns,
        # The default hides all but the first ten.
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": None,
        # Repetitions of front members and audits are no trials of the search, and would blur the front.
        "searchFilter": (
            f"tags.`lethe.sweep_id` = '{identity}' and tags.`{KIND}` != 'confirmation' and tags.`{KIND}` !="
            " 'audit'"
        ),
        # In the order of time the UI nests children under their parent, closed, and draws nothing of what is
        # closed; it drops the key `runsExpanded` of shared views. In any other order trials stand side by
        # side. And of a sweep that is longer than what it loads, these are the front and some others.
        "orderByKey": "tags.`pareto.front`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }


class _Names:
    """Makes charts and sections under identifiers that follow from the sweep, so that writing a view again
    changes nothing."""

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
    """Keys of one plot each: it leaves out trials that lack any of them, so keys with unlike conditions
    cannot stand together."""
    always = [key for key, domain in sweep.space.items() if not domain.when]
    yield always
    conditions: list[dict[str, Any]] = []
    for domain in sweep.space.values():
        if domain.when and domain.when not in conditions:
            conditions.append(domain.when)
    for condition in conditions[:MOST_CONDITIONS]:
        # A key that the condition leaves one value needs no axis.
        shared = [key for key in always if len(condition.get(key, ())) != 1]
        yield shared + [key for key, domain in sweep.space.items() if domain.when == condition]


def _packed(state: Mapping[str, Any]) -> str:
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
