"""One start of a sweep: starts lanes, measures baselines, runs trials through Ray Tune, publishes results."""
