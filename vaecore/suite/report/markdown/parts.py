"""What pages in Markdown share."""

import math
from collections.abc import Mapping
from typing import Any

from vaecore.suite.report.figures.catalogue import caption


def figure(results: Mapping[str, Any], name: str) -> str:
    """A figure and, below it, its caption."""
    said = caption(results, name)
    return f"\n![{said.title}]({name}.png)\n\n{said}"


def share(value: float | None) -> str:
    """A number from 0 to 1 in three digits, or a dash where it is not defined."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("|", "\\|")
