"""Capacity planning: lanes of a cluster, memory of a rank, and layouts that fit, without any framework."""
