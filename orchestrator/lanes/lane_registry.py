"""The lanes that are up: their worker groups, the nodes of their workers, and the handles that end them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Worker = tuple[str, Any]
"""One rank of a worker group: the id of its node, and the actor handle that ends it."""


@dataclass
class Lane:
    """A worker group that is up."""

    generation: str
    """Identifies the group among all groups that its lane has had."""
    workers: Sequence[Worker] = ()
    handed_out: list[str] = field(default_factory=list)
    """Names of the jobs that the group was given, in order."""


class LaneRegistry:
    """Worker groups by the name of their lane. Lives inside the actor of the job queue.

    Args:
        alive_nodes: Returns the ids of the nodes that are up.
    """

    def __init__(self, alive_nodes: Callable[[], set[str]] = set) -> None:
        self._alive_nodes = alive_nodes
        self._lanes: dict[str, Lane] = {}
        self.controllers: dict[str, Any] = {}
        """Actor handles by which lanes are ended, by lane; also of lanes that still wait for room."""

    @property
    def names(self) -> list[str]:
        """Names of the lanes that are up."""
        return list(self._lanes)

    @property
    def workers(self) -> list[Worker]:
        """Workers of all lanes that are up."""
        return [worker for lane in self._lanes.values() for worker in lane.workers]

    def add(self, name: str, generation: str, workers: Sequence[Worker]) -> None:
        """Note that a worker group is up, in place of an earlier group of the same lane."""
        self._lanes[name] = Lane(generation, workers)

    def remove(self, name: str) -> bool:
        """Remove the worker group of a lane, if there is one.

        Returns:
            Whether a node of its workers has gone away.
        """
        lane = self._lanes.pop(name, None)
        return lane is not None and self._misses_node(lane)

    def group(self, name: str, generation: str) -> Lane | None:
        """Return a worker group; None if its lane has ended or has a newer group."""
        lane = self._lanes.get(name)
        return lane if lane is not None and lane.generation == generation else None

    def workers_of(self, name: str | None) -> Sequence[Worker]:
        """Return the workers of a lane; none if it is not up."""
        lane = None if name is None else self._lanes.get(name)
        return () if lane is None else lane.workers

    def on_lost_nodes(self) -> list[str]:
        """Return the names of the lanes with a worker on a node that has gone away."""
        return [name for name, lane in self._lanes.items() if self._misses_node(lane)]

    def _misses_node(self, lane: Lane) -> bool:
        return bool({node for node, _ in lane.workers} - self._alive_nodes())
