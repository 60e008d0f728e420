"""The training loop: model preparation, batch packing, the unlearning trial, its rungs and checkpoints."""
