"""Attack budgets (L-infinity, in pixel intensity) and draws of an image: the usual ones, and budgets as texts."""

import math

from vaecore.suite.text import intensity

GREY, COLOUR = 0.2, 8 / 255  # the field's budgets, of digits and of photographs (Croce et al. 2021)
DRAWS = 10
MOST = 0.4  # a budget; trials of the attacks go to 2.5, and no pixel can move by more than 1


def budget_of(text: str) -> float:
    """A budget from a text such as "0.1" or "8/255"; raises ValueError unless it is above 0 and at most MOST."""
    above, _, below = text.partition("/")
    try:
        budget = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        budget = math.nan
    if not 0 < budget <= MOST:
        raise ValueError(
            f"an attack budget (--epsilon) must be above 0 and at most {MOST:g}, as attacks go up to {1 / MOST:g}"
            f" budgets: a decimal or a fraction such as 8/255; got {text!r}"
        )
    return budget


def text_of(budget: float) -> str:
    """The text from which `budget_of` gives a budget back."""
    shown = intensity(budget)
    return shown if budget_of(shown) == budget else repr(budget)


def usual_budget(channels: int) -> float:
    """The budget that the field attacks grey or colour images with."""
    return GREY if channels == 1 else COLOUR
