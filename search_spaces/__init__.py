"""The settings of sweep files, their checks, and the packaged sweeps. Imports neither torch nor ray."""
