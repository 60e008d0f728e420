"""The training loop: preparing models, packing batches, one unlearning trial with its rungs and
checkpoints."""
