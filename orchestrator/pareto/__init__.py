"""Objectives, Pareto dominance, the Pareto front with its hypervolume, and the selection of front members."""
