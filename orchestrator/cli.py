"""The command line: `lethe`. Heavy imports happen inside the commands, so that `lethe --help` answers at
once."""

# isort: off
# Each module adds its commands to the app; the help shows them in this order.
from orchestrator.commands import plan as plan
from orchestrator.commands import run as run
from orchestrator.commands import submit as submit
from orchestrator.commands import status as status
from orchestrator.commands import dynamics as dynamics
from orchestrator.commands import export as export
from orchestrator.commands import audit as audit
from orchestrator.commands import benchmark as benchmark
from orchestrator.commands import score as score
from orchestrator.commands import clean as clean
from orchestrator.commands.options import app as app
from orchestrator.lanes.sigterm import ended_by_sigterm
# isort: on


def main() -> None:
    """Entry point of the `lethe` command."""
    with ended_by_sigterm():
        app()


if __name__ == "__main__":
    main()
