"""The look of figures: Okabe and Ito's colours, each with a marker, a line or a hatch for those who see no colours."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from cycler import cycler
from numpy.typing import NDArray
from PIL import Image

from vaecore.suite.text import intensity
from vaecore.toolkit import import_matplotlib

mpl: Any = import_matplotlib()

# Other modules take these from here, so that nothing of matplotlib is imported before.
from matplotlib.axes import Axes as Axes  # noqa: E402, PLC0414
from matplotlib.colors import TwoSlopeNorm as TwoSlopeNorm  # noqa: E402, PLC0414
from matplotlib.figure import Figure as Figure  # noqa: E402, PLC0414

BLUE, ORANGE, GREEN, PURPLE, BLACK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#767676"
RED = "#B84A00"  # ORANGE, darkened until small letters can be read on white
YELLOW, SKY = "#E69F00", "#56B4E9"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, BLACK)
LINES = ("o-", "s--", "^-.", "D:", "v-")  # one for each of COLOURS
HATCH = "////"  # of noise
SMALL = 6.5  # points, of numbers within a figure

LOOK: Any = {  # matplotlib's parameters, beside its own defaults
    "font.size": 8.5,
    "figure.titlesize": 9.5,
    "figure.labelsize": 9,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    # A fixed salt keeps the SVG free of random ids; paths look the same without the font.
    "svg.hashsalt": "vaecore",
    "svg.fonttype": "path",
}


def look(parameters: Any = LOOK) -> AbstractContextManager[None]:
    """A context in which figures have this look, whatever a user's matplotlibrc, style or code has set."""
    defaults = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
    context: AbstractContextManager[None] = mpl.rc_context({**defaults, **parameters})
    return context


def plain(text: str) -> str:
    """A text that holds no formula, whatever dollars stand in it."""
    return text.replace("$", r"\$")


def formulas(text: str) -> str:
    """A text of results that may hold formulas."""
    return text.replace(r"\$", "$")


def show(panel: Axes, image: NDArray[np.uint8]) -> None:
    """Show an image, (h, w) or (h, w, 3) in colour, without smoothing, scaling or ticks."""
    panel.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def size_axis(panel: Axes, sizes: Sequence[float]) -> None:
    """Label an axis of sizes of attacks, and tick every other one: multiples of twice the least above 0."""
    step = 2 * min(size for size in sizes if size > 0)
    ticks = sorted(size for size in {*sizes} if abs(size / step - round(size / step)) < 1e-6)
    panel.set_xticks(ticks, [intensity(size) for size in ticks])
    panel.set_xlabel("$\\epsilon$ (L-infinity, pixel intensity)")


def mark_label(panel: Axes, label: int, right: int, after: str = "") -> None:
    """Write the label given above an image; a wrong label is orange, bold and marked x."""
    wrong = label != right
    panel.set_title(
        f"{label}{' x' if wrong else ''}{after}",
        fontsize=SMALL + 0.5,
        pad=2,
        fontweight="bold" if wrong else "normal",
        color=RED if wrong else BLACK,
    )


def render(figure: Figure, suffix: str) -> bytes:
    """The bytes of a PNG or SVG file of the figure, always the same."""
    file = io.BytesIO()
    with look():
        figure.savefig(file, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    return _in_few_colours(file) if suffix == "png" else file.getvalue()


def _in_few_colours(png: io.BytesIO) -> bytes:
    """The same picture in 256 colours: a third of the size, and it looks alike."""
    file = io.BytesIO()
    with Image.open(png, formats=("PNG",)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
    return file.getvalue()
