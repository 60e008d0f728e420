"""Where models run outside of trials."""

import torch


def best_device() -> str:
    """`cuda` where there is a GPU, otherwise `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"
