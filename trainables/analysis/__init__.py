"""Where probability mass moves in a training step: learning dynamics and likelihood bands."""
