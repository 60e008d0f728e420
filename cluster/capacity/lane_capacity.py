"""How many lanes a cluster holds: arithmetic on numbers that Ray reports, without Ray.

Ray waits for ever for workers that no node can hold, so this is asked before anything starts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces.settings.sweep_settings import ResourceSettings
from search_spaces.user_errors import UserError

# Ray counts resources in ten-thousandths; whole numbers also keep 3 x 0.1 CPU from missing 0.3.
_UNITS = 10_000


@dataclass(frozen=True)
class Capacity:
    """What fits on a cluster."""

    slots: tuple[int, ...]
    """Per node: workers that fit there."""
    lanes: int
    """Lanes that fit at a time; a lane's workers may be on different nodes."""


def capacity_of(nodes: Sequence[Mapping[str, float]], resources: ResourceSettings) -> Capacity:
    """Counts the workers and lanes that fit.

    Args:
        nodes: Per node its `CPU` and `GPU` counts as Ray reports them; a missing key is none. The driver and
            Tune's trials take no CPU.
        resources: What one lane holds.

    Returns:
        Slots per node and lanes; `max_lanes` is respected, and the lanes are 0 where not even one fits.
    """
    slots = tuple(_slots(node, resources) for node in nodes)
    lanes = sum(slots) // resources.workers_per_trial
    return Capacity(slots, lanes if resources.max_lanes is None else min(lanes, resources.max_lanes))


def require_lanes(nodes: Sequence[Mapping[str, float]], resources: ResourceSettings, file: str) -> Capacity:
    """`capacity_of`, for a cluster that must hold at least one lane.

    Args:
        nodes: As in `capacity_of`.
        resources: What one lane holds.
        file: The sweep file, for the message.

    Returns:
        A capacity of at least one lane.

    Raises:
        UserError: Not even one lane fits: names the setting to lower, and the largest value that this cluster
            allows.
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
    """Which nodes each lane could use, for people to look at; Ray decides for itself, and packs likewise.

    Args:
        capacity: Slots and lanes.
        workers_per_trial: Workers per lane.

    Returns:
        Per lane, the node index of each worker: lanes that fit on one node first, then those that span nodes.
    """
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
    # At least one unit: Ray rounds smaller fractions up too, and a worker of nothing would fit infinitely
    # often.
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
    # With GPUs, the node with the most CPUs may be one without a GPU: only nodes that have both count.
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
