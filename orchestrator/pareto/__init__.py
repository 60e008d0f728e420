"""Objectives, dominance, the Pareto front and its hypervolume, and how to select a member of it."""
