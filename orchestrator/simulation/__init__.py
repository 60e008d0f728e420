"""Sweeps without training: learning curves fitted to recorded trials, behind the same code that runs real
sweeps."""
