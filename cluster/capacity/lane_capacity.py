"""Computes how many lanes a cluster holds, from the resources that Ray reports.

Ray waits forever for workers that fit on no node, so the capacity is checked before a sweep starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.settings.sweep_settings import ResourceSettings
from search_spaces.user_errors import UserError

# Ray counts resources in units of 1/10,000. Integers also avoid rounding errors, by which 3 x 0.1 CPU would
# exceed 0.3 CPU.
_UNITS = 10_000


@dataclass(frozen=True)
class Capacity:
    """The workers and lanes that fit on a cluster."""

    slots: tuple[int, ...]
    """Number of workers that fit on each node."""
    lanes: int
    """Number of lanes that fit at the same time; a lane's workers may be on different nodes."""


def capacity_of(nodes: Sequence[Mapping[str, float]], resources: ResourceSettings) -> Capacity:
    """Counts the workers and lanes that fit on a cluster.

    Args:
        nodes: The `CPU` and `GPU` counts of each node as Ray reports them; a missing key counts as 0. The
            driver and Tune's trials need no CPU.
        resources: Resources of one lane.

    Returns:
        Slots per node, and lanes up to `max_lanes`; 0 lanes if none fits.
    """
    # Slots of all nodes are added up, because Ray may place the workers of one lane on several nodes.
    slots = tuple(_slots(node, resources) for node in nodes)
    lanes = sum(slots) // resources.workers_per_trial
    return Capacity(slots, lanes if resources.max_lanes is None else min(lanes, resources.max_lanes))


def require_lanes(nodes: Sequence[Mapping[str, float]], resources: ResourceSettings, file: str) -> Capacity:
    """Returns `capacity_of` a cluster, and raises if not even one lane fits.

    Args:
        nodes: Nodes as for `capacity_of`.
        resources: Resources of one lane.
        file: The sweep file, for the message.

    Returns:
        A capacity of at least one lane.

    Raises:
        UserError: No lane fits. The message names the setting to lower and the largest value that this
            cluster allows.
    """
    capacity = capacity_of(nodes, resources)
    if capacity.lanes:
        return capacity
    workers = sum(capacity.slots)
    if workers:
        raise UserError(
            f"one trial needs more workers than the cluster has: room for {workers} of {_worker(resources)}"
            f" each on {_cluster(nodes)}",
            file=file,
            key="resources.workers_per_trial",
            value=resources.workers_per_trial,
            allowed=f"at most {workers} on this cluster",
            remedy=(
                f"Set resources.workers_per_trial to {workers} or less, lower resources.cpus_per_worker, or"
                " start a larger cluster."
            ),
        )
    raise _no_worker_fits(nodes, resources, file)


def layout(capacity: Capacity, workers_per_trial: int) -> list[tuple[int, ...]]:
    """Proposes on which nodes the workers of each lane could run, for display.

    Ray places the workers itself, and packs them in a similar way.

    Args:
        capacity: Slots and lanes.
        workers_per_trial: Workers per lane.

    Returns:
        For each lane the node index of each worker: lanes on one node first, then lanes that span nodes.
    """
    # Lanes within one node come first, because their collectives need no network.
    free = list(capacity.slots)
    lanes: list[tuple[int, ...]] = []
    for node, slots in enumerate(free):
        whole = min(slots // workers_per_trial, capacity.lanes - len(lanes))
        lanes += [(node,) * workers_per_trial] * whole
        free[node] -= whole * workers_per_trial
    rest = [node for node, slots in enumerate(free) for _ in range(slots)]
    while len(lanes) < capacity.lanes:
        lanes.append(tuple(rest[:workers_per_trial]))
        del rest[:workers_per_trial]
    return lanes


def _slots(node: Mapping[str, float], resources: ResourceSettings) -> int:
    slots = _units(node.get("CPU", 0.0)) // _units(resources.cpus_per_worker)
    if resources.gpus_per_worker:
        slots = min(slots, _units(node.get("GPU", 0.0)) // _units(resources.gpus_per_worker))
    return slots


def _units(amount: float) -> int:
    # At least one unit, because Ray rounds smaller fractions up too and the caller divides by the result.
    return max(1, round(amount * _UNITS)) if amount else 0


def _no_worker_fits(
    nodes: Sequence[Mapping[str, float]], resources: ResourceSettings, file: str
) -> UserError:
    most_cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    most_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    if most_gpus < resources.gpus_per_worker:
        return UserError(
            f"a worker needs a GPU and no node has one: {_cluster(nodes)}",
            file=file,
            key="resources.gpus_per_worker",
            value=resources.gpus_per_worker,
            allowed="0 on this cluster",
            remedy="Set resources.gpus_per_worker to 0 to run on CPUs, or start a cluster with GPUs.",
        )
    # The node with the most CPUs may have no GPU, so only nodes with enough GPUs are considered.
    usable = max(
        (node.get("CPU", 0.0) for node in nodes if node.get("GPU", 0.0) >= resources.gpus_per_worker),
        default=most_cpus,
    )
    return UserError(
        f"one worker does not fit on any node: {_cluster(nodes)}",
        file=file,
        key="resources.cpus_per_worker",
        value=resources.cpus_per_worker,
        allowed=f"at most {usable:g} on this cluster; fractions share a core",
        remedy=(
            f"{f'Set resources.cpus_per_worker to {usable:g} or less, or start' if usable else 'Start'} a"
            " cluster with larger nodes."
        ),
    )


def _cluster(nodes: Sequence[Mapping[str, float]]) -> str:
    sizes = [f"{node.get('CPU', 0.0):g} CPUs and {node.get('GPU', 0.0):g} GPUs" for node in nodes]
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)} ({'; '.join(sizes[:4])}{'; ...' * (len(sizes) > 4)})"


def _worker(resources: ResourceSettings) -> str:
    gpus = f" and {resources.gpus_per_worker:g} GPU" if resources.gpus_per_worker else ""
    return f"{resources.cpus_per_worker:g} CPU{gpus}"
