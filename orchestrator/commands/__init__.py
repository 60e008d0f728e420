"""The commands of `lethe`, by what one wants: each module is read by `orchestrator.cli` and imports what is
heavy inside its functions."""
