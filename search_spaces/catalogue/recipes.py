"""Recipes: published settings of the methods, which a sweep can run first as baselines (`search.recipes`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces.settings.space import Domain, Scalar


@dataclass(frozen=True)
class Recipe:
    """The settings that a publication fixes for a method.

    Learning rate and epochs are not part of a recipe, because they depend on the model and the data.
    """

    settings: Mapping[str, Scalar]
    """Dotted trial keys and their values."""
    source: str
    """The publication."""


# OpenUnlearning calls the forget weight gamma and the retain weight alpha.
_RETAIN: dict[str, Scalar] = {"retain.loss": "nll", "retain.weight": 1.0}
_PLAIN: dict[str, Scalar] = {"forget.weight": 1.0, **_RETAIN, "beliefs": "none"}
_NO_RETAIN: dict[str, Scalar] = {"retain.loss": "none", "forget.weight": 1.0, "beliefs": "none"}
_NPO: dict[str, Scalar] = {"forget.method": "npo", "forget.weight": 1.0, "forget.npo.beta": 0.1, **_RETAIN}
_BS_T: dict[str, Scalar] = {
    "token_belief.weight": 0.2,
    "token_belief.top_k": 20,
    "token_belief.temperature": 1.0,
}
_BS_S: dict[str, Scalar] = {
    "sequence_belief.weight": 0.5,
    "sequence_belief.num_samples": 3,
    "sequence_belief.temperature": 1.0,
}

RECIPES: dict[str, Recipe] = {
    "ga": Recipe({"forget.method": "ga", "forget.weight": 1.0, "beliefs": "none"}, "arXiv 2510.19422 eq. 1"),
    "graddiff": Recipe({"forget.method": "graddiff", **_PLAIN}, "arXiv 2510.19422 eq. 2"),
    "npo": Recipe({**_NPO, "beliefs": "none"}, "arXiv 2404.05868; beta as in arXiv 2510.19422"),
    "simnpo": Recipe(
        {
            "forget.method": "simnpo",
            **_PLAIN,
            "forget.weight": 0.125,
            "forget.simnpo.beta": 4.5,
            "forget.simnpo.delta": 0.0,
        },
        "arXiv 2410.07163, as set in OpenUnlearning, arXiv 2506.12618",
    ),
    "wga": Recipe({"forget.method": "wga", **_PLAIN, "forget.wga.alpha": 1.0}, "arXiv 2502.19301"),
    "tnpo": Recipe({"forget.method": "tnpo", **_PLAIN, "forget.tnpo.beta": 4.0}, "arXiv 2502.19301"),
    "wtnpo": Recipe(
        {"forget.method": "wtnpo", **_PLAIN, "forget.wtnpo.beta": 0.1, "forget.wtnpo.alpha": 1.0},
        "arXiv 2502.19301; beta as in its code",
    ),
    "satimp": Recipe(
        {
            "forget.method": "satimp",
            **_PLAIN,
            "forget.weight": 0.1,
            "forget.satimp.beta1": 5.0,
            "forget.satimp.beta2": 1.0,
        },
        "arXiv 2505.11953, as set in OpenUnlearning, arXiv 2506.12618",
    ),
    "dpo": Recipe(
        {"forget.method": "dpo", **_PLAIN, "forget.dpo.beta": 0.1},
        "arXiv 2401.06121; beta as in OpenUnlearning, arXiv 2506.12618",
    ),
    "altpo": Recipe(
        {"forget.method": "altpo", **_PLAIN, "forget.altpo.beta": 0.1, "forget.preferred.per_example": 5},
        "arXiv 2409.13474",
    ),
    "flat": Recipe(
        {"forget.method": "flat", **_NO_RETAIN, "forget.flat.divergence": "total_variation"},
        "arXiv 2410.11143",
    ),
    "ceu": Recipe(
        {"forget.method": "ceu", **_NO_RETAIN}, "arXiv 2503.01224, as in OpenUnlearning, arXiv 2506.12618"
    ),
    "undial": Recipe(
        {"forget.method": "undial", **_NO_RETAIN, "forget.undial.beta": 10.0},
        "arXiv 2402.10052, as set in OpenUnlearning, arXiv 2506.12618",
    ),
    "pdu": Recipe(
        {"forget.method": "pdu", **_PLAIN, "forget.dual.step": 1.0},
        "arXiv 2506.05314; the allowed loss depends on model and data",
    ),
    "rmu": Recipe(
        {"forget.method": "rmu", **_PLAIN, "retain.loss": "activations", "forget.steering.coefficient": 2.0},
        "arXiv 2403.03218; layer and length as set in OpenUnlearning, arXiv 2506.12618",
    ),
    "bs_t": Recipe({**_NPO, "beliefs": "token", **_BS_T}, "arXiv 2510.19422: NPO with token beliefs"),
    "bs_s": Recipe(
        {**_NPO, "beliefs": "token+sequence", **_BS_T, **_BS_S},
        "arXiv 2510.19422: NPO with token and sequence beliefs",
    ),
}


def searched_part(name: str, space: Mapping[str, Domain]) -> dict[str, Scalar]:
    """Returns the settings of a recipe that a space searches.

    The other settings of the recipe must equal those of every trial; `check_sweep` ensures this.
    """
    return {key: value for key, value in RECIPES[name].settings.items() if key in space}
