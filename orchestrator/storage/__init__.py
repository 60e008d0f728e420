"""A sweep's files: its folder and lock, trial records, baselines, follow-up results, provenance, cleaning."""
