"""The command line: `lethe`. Heavy imports happen inside the commands, so that `lethe --help` answers at once."""

# isort: off
# Each module adds its commands to the app; the help shows them in this order.
from orchestrator.commands import before as before
from orchestrator.commands import running as running
from orchestrator.commands import submitting as submitting
from orchestrator.commands import looking as looking
from orchestrator.commands import explaining as explaining
from orchestrator.commands import taking_out as taking_out
from orchestrator.commands import auditing as auditing
from orchestrator.commands import benchmarking as benchmarking
from orchestrator.commands import scoring_logs as scoring_logs
from orchestrator.commands import cleaning_up as cleaning_up
from orchestrator.commands.terminal import app as app
from orchestrator.termination import ended_by_sigterm
# isort: on


def main() -> None:
    """Entry point of the `lethe` command."""
    with ended_by_sigterm():
        app()


if __name__ == "__main__":
    main()
