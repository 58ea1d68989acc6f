"""The files of a report's figures."""

import warnings
from typing import Any

from vaecore.suite.report.figures import cleaning, consistency, decisions, outside, style
from vaecore.suite.report.figures.catalogue import FIGURES, SUFFIXES, Results, caption
from vaecore.suite.text import each_text

_MODULES = {module.__name__.rpartition(".")[2]: module for module in (cleaning, consistency, decisions, outside)}


def draw(results: Results, name: str) -> dict[str, bytes]:
    """Draw a figure under its title; returns the content of each of its files, by suffix."""
    module, function = FIGURES[name].draw.split(".")
    drawing: Any = getattr(_MODULES[module], function)
    results = each_text(results, style.plain)
    with style.look(), warnings.catch_warnings():
        # A name in letters that the font lacks is drawn as boxes; the pages around the figure have it.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = drawing(results)
        text = caption(results, name)
        figure.suptitle(f"{results['dataset']['name']}: {text.title}\nn: {text.count}")
        files = {}
        for suffix in SUFFIXES:
            files[suffix] = style.render(figure, suffix)
            figure.set_layout_engine("none")  # the layout is kept, as it takes half the time
        return files
