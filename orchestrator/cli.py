"""The command line `lethe`.

Commands import heavy packages inside their functions, so that `lethe --help` answers at once.
"""

# isort: off
# Importing a module adds its commands to the app; the help lists them in the order of these lines.
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
    """Runs the command of `sys.argv`: the entry point of `lethe`."""
    # SIGTERM becomes an exception, so that a driver in a cluster ends its lanes before it exits.
    with ended_by_sigterm():
        app()


if __name__ == "__main__":
    main()
