"""What every start of a sweep begins and ends with."""

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.storage.baselines import OnProgress, Plan
from orchestrator.storage.sweep_folder import SweepFolder, write_json
from orchestrator.storage.trial_records import BASELINES

if TYPE_CHECKING:
    # Only for its name: `lethe plan` reads this module and must not wait for Ray.
    from orchestrator.lanes.lane_pool import LanePool


def ensure_baselines(plan: Plan, pool: "LanePool", folder: SweepFolder, on_progress: OnProgress) -> None:
    """Run what the plan still needs, on the lanes that the trials will use.

    Raises:
        UserError: A model cannot be loaded, prepared or measured.
    """
    stages = (("preparing", plan.prepare), ("measuring", plan.measure[:1]), ("measuring", plan.measure[1:]))
    for verb, jobs in stages:  # the others are measured against the retrained model's measurement, so in this order
        tickets = []
        for job in jobs:
            ticket = f"{verb} the {job.name} model"
            pool.submit(ticket, job)
            tickets.append(ticket)
        for ticket in tickets:
            pool.wait(ticket, partial(on_progress, ticket))
    known = {name: getattr(plan, name) for name in BASELINES}
    write_json(
        folder.baselines, {name: {"folder": b.folder, "measurement": str(b.measurement)} for name, b in known.items() if b is not None}
    )
