"""Where probability moves in one training step: learning dynamics and likelihood bands."""
