"""Capacity planning for clusters, and the submission of sweeps as Ray jobs."""
