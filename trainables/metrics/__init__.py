"""Metrics of forgetting and utility: scored for each item first, then aggregated over all ranks."""
