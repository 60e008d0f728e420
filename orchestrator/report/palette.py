"""Colours of all figures and pictures of the report."""

from search_spaces.catalogue.method_catalogue import METHODS

# Okabe and Ito's palette can be distinguished with every common form of colour blindness.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY_BLUE = "#E69F00", "#56B4E9"

INK = "#222222"
"""Text, edges and baselines."""
GREY = "#8a8a8a"
"""What stays in the background."""
LIGHT_GREY = "#c8c8c8"
GRID = "#e6e6e6"

SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, GREY)
"""Lines or bars beside each other."""

OBJECTIVE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
CANONICAL_COLOUR, REPHRASED_COLOUR = BLUE, VERMILION

RESIDUAL_COLOURS = {"target": INK, "belief": VERMILION, "rest": LIGHT_GREY}
"""Kinds of tokens on which the residuals of a step lie."""

METHOD_COLOURS = {"ga": ORANGE, "graddiff": BLUE, "npo": VERMILION, "simnpo": PURPLE, "wga": GREEN}
# Paul Tol's muted palette serves the other methods. So many colours are hard to distinguish, but pictures
# also write the names of the front's members beside their marks.
_MORE_COLOURS = (
    "#332288",
    "#88CCEE",
    "#44AA99",
    "#117733",
    "#999933",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#AA4499",
    "#661100",
)
METHOD_COLOURS |= dict(
    zip((name for name in METHODS if name not in METHOD_COLOURS), _MORE_COLOURS, strict=True)
)
