"""Recomputes the aggregates of evaluation logs (OpenUnlearning's and Lethe's) from their per-item values."""
