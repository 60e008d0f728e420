"""Recomputes evaluation logs from their per-item values: OpenUnlearning's and our own, by published
definitions and by ours."""
