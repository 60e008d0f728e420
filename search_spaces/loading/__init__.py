"""Loads YAML files and `--set` overrides into checked `SweepSettings`."""
