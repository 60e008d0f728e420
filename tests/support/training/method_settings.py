"""Settings of every method, defaults and others, for tests that walk the registry."""

from search_spaces.settings.forget_settings import ForgetSettings
from trainables.losses.methods import METHODS, LogitMethod, PreferenceMethod, TargetMethod
from trainables.losses.preference_methods import DIVERGENCES

OTHERS = {
    "npo": [{"beta": 1.5}],
    "simnpo": [{"beta": 0.7, "delta": 1.1}],
    "wga": [{"alpha": 2.5}],
    "tnpo": [{"beta": 0.3}],
    "wtnpo": [{"beta": 1.3, "alpha": 0.4}],
    "satimp": [{"beta1": 0.5, "beta2": 2.0}],
    "dpo": [{"beta": 1.7}],
    "flat": [{"divergence": name} for name in DIVERGENCES if name != "total_variation"],
    "undial": [{"beta": 0.5}],
}


def settings_of(kind):
    """Default settings of every method of a kind, and others."""
    names = [name for name, method in METHODS.items() if isinstance(method, kind)]
    blocks = [(name, block) for name in names for block in [{}, *OTHERS.get(name, [])]]
    return [
        ForgetSettings.model_validate({"method": name, **({name: block} if block else {})})
        for name, block in blocks
    ]


def short_name(settings):
    """For test ids."""
    block = getattr(settings, settings.method, "")
    return f"{settings.method} {block}".strip()


TARGET, PREFERENCE, LOGIT = (settings_of(kind) for kind in (TargetMethod, PreferenceMethod, LogitMethod))
