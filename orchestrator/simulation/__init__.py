"""Simulated sweeps: the code of real sweeps, with learning curves fitted to recorded trials in place of
training."""
