"""From YAML text and `--set` overrides to a checked `SweepSettings`, with file, line and key in every
error."""
