"""The dual variable of PDU: the weight of the retain loss rises while that loss is larger than allowed, and falls while it is smaller."""

from search_spaces.settings.trial_settings import TrialSettings


def starting_weight(trial: TrialSettings) -> float | None:
    """Where the dual variable starts; None for methods without one."""
    return trial.retain.weight if trial.forget.method == "pdu" else None


def next_weight(trial: TrialSettings, weight: float | None, retain_loss: float, epoch: float) -> float | None:
    """The dual variable after a step: `max(0, weight + step * (retain loss - allowed))`.

    Args:
        trial: With the block `forget.dual`.
        weight: Before the step; None for methods without a dual variable.
        retain_loss: Of the step, per answer token.
        epoch: Epochs that were done before the step; a fraction inside one.

    Source: arXiv 2506.05314 and OU.
    """
    dual = trial.forget.dual
    if weight is None or epoch < dual.warmup_epochs:
        return weight
    return max(0.0, weight + dual.step * (retain_loss - dual.allowed_nats))
