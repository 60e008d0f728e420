"""What a sweep keeps on disk: its folder, trial records, baselines, provenance, and what may be deleted."""
