"""Family D: accuracy behind each purifier, under attackers that do not know it and under those that do."""

from collections.abc import Callable, Mapping
from typing import Any

from vaecore.suite.report.markdown.parts import figures
from vaecore.suite.results import ATTACKS
from vaecore.suite.text import counted, intensity


def section(results: Mapping[str, Any], line: Callable[[str], None]) -> None:
    """Write the section of the summary, whose results they are; line: called with each line."""
    cleaning = results["cleaning"]
    accuracy, attacked = cleaning["accuracy"], cleaning["attacked"]
    line("\n## What does cleaning buy?\n")
    line("Accuracy, all runs; attackers do not know the purifier.\n")
    names = list(dict.fromkeys(name for row in accuracy.values() for name in row))
    line(f"| condition | images | {' | '.join(names)} |\n|---|---:|{'---:|' * len(names)}")
    for condition, row in accuracy.items():
        shown = " | ".join(f"{row[name]['accuracy']:.3f}" if name in row else "-" for name in names)
        line(f"| {condition} | {cleaning['images'][condition]} | {shown} |")
    line(f"\nOf {cleaning['search']} the first {counted(cleaning['searched'], 'image', 'd')}, but all under L-BFGS.\n")
    line("Accuracy on the first run under PGD that does not know the purifier / through it / under the discrete")
    line("search, where it rounds / under Square, where it has no exact gradient / right under all of these.\n")
    sizes = [row["epsilon"] for row in next(iter(attacked.values()))]
    line(f"| purifier | images | {' | '.join(f'epsilon {intensity(size)}' for size in sizes)} |")
    line(f"|---|---:|{'---:|' * len(sizes)}")
    for name, rows in attacked.items():
        cells = [" / ".join(f"{row[key]['accuracy']:.2f}" for key in ATTACKS if key in row) for row in rows]
        line(f"| {name} | {rows[0]['images']} | {' | '.join(cells)} |")
    _certified(cleaning["certified"], line)
    line(figures(results, "cleaning"))


def _certified(certified: Mapping[str, Any], line: Callable[[str], None]) -> None:
    shown = f"Certified accuracy by randomised smoothing, all runs, {counted(certified['images'], 'image', 'd')}:"
    line(f"\n{shown} no change of an image below the radius (L2) alters its label.\n")
    first, *_ = [rows for purifiers in certified["accuracy"].values() for rows in purifiers.values()]
    radii = " | ".join(f"radius {row['radius']:g}" for row in first)
    line(f"| noise | purifier | {radii} |\n|---|---|{'---:|' * len(first)}")
    for condition, purifiers in certified["accuracy"].items():
        for name, rows in purifiers.items():
            cells = " | ".join(f"{row['accuracy']:.3f}" for row in rows)
            line(f"| {condition} | {name} | {cells} |")
