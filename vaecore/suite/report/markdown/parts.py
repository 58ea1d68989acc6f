"""Parts of pages in Markdown: figures, numbers and texts of tables."""

import math
from collections.abc import Mapping
from typing import Any

from vaecore.suite.report.figures.catalogue import FIGURES, caption, shown


def figures(results: Mapping[str, Any], section: str) -> str:
    """The figures of a section, each with its caption below."""
    names = [name for name in shown(results) if FIGURES[name].section == section]
    return "\n".join(f"\n![{caption(results, name).title}]({name}.png)\n\n{caption(results, name)}" for name in names)


def share(value: float | None) -> str:
    """A number from 0 to 1 in three digits, or a dash where it is not defined."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def cell(text: str) -> str:
    """A text as a cell of a table."""
    return text.replace("|", "\\|")
