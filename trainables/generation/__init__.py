"""Inference without training: log-probabilities, sampling, beam search, beliefs, preferred answers."""
