"""One start of a sweep: lanes up, baselines measured, trials run through Ray Tune, results recorded and
published."""
