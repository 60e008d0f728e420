"""How many lanes fit on a cluster, how much memory a rank needs, and which layout fits a model: arithmetic
without any framework."""
