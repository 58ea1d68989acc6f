"""Results as tidy tables: a row for each claim, condition, or score and set outside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table as Grid
from rich.text import Text

from vaecore.suite.judging.registry import family_of
from vaecore.suite.report import terminal
from vaecore.suite.results import plain
from vaecore.suite.tidy import Tidy

NO_VERDICT = "no verdict"  # of a claim that was not concluded; its message says why
_CLAIMS = (
    *(
        "claim",
        "family",
        "kind",
        "verdict",
        "amiss",
        "estimate",
        "low",
        "high",
        "level",
        "bound",
        "bound_low",
        "bound_high",
    ),
    *("runs", "images", "power", "same", "again_supported", "needed_images", "needed_runs", "pick", "registered"),
    *("conditions", "sentence", "estimand", "message"),
)
_CONDITIONS = (
    *("condition", "title", "images", "accuracy", "success", "unsuccessful", "consistent", "l2", "mse", "kl"),
    "threat",
)
_DETECTION = ("score", "set", "group", "images", "auroc", "low", "high", "aupr_in", "aupr_out", "fpr95")


def claims(results: Mapping[str, Any]) -> Tidy:
    """A row for each claim: the verdict with its numbers, or `no verdict` and why."""
    rows = [
        {**dict.fromkeys(_CLAIMS), **claim, "family": family_of(claim["claim"])}
        | {"conditions": " ".join(claim["conditions"])}
        for claim in results["claims"]
    ]
    rows += [
        dict.fromkeys(_CLAIMS) | {"claim": name, "family": family_of(name), "verdict": NO_VERDICT, "message": why}
        for name, why in results["not_concluded"].items()
    ]
    return _tidy(rows, _CLAIMS, ("claim", "verdict", "estimate", "low", "high", "bound", "estimand"))


def conditions(results: Mapping[str, Any]) -> Tidy:
    """A row for each condition: what it does to labels and reconstructions, and its threat model."""
    rows = [
        {**dict.fromkeys(_CONDITIONS), **condition, "condition": name, "threat": results["threats"].get(name)}
        for name, condition in results["conditions"].items()
    ]
    return _tidy(rows, _CONDITIONS, ("condition", "images", "accuracy", "success", "consistent", "l2", "mse", "kl"))


def detection(results: Mapping[str, Any]) -> Tidy:
    """A row for each score and set outside: how well the score tells the set from the test images."""
    found = results.get("detection") or {"cells": {}}
    groups, images = found.get("groups", {}), found.get("images", {})
    rows = [
        {**dict.fromkeys(_DETECTION), **cell, "score": score, "set": name}
        | {"group": groups.get(name), "images": images.get(name)}
        for score, row in found["cells"].items()
        for name, cell in row.items()
    ]
    return _tidy(rows, _DETECTION, ("score", "set", "auroc", "low", "high", "fpr95"))


def _tidy(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], shown: Sequence[str]) -> Tidy:
    return Tidy([plain({name: row[name] for name in columns}) for row in rows], columns, shown)


TABLES: dict[str, Callable[[Mapping[str, Any]], Tidy]] = {
    "claims": claims,
    "conditions": conditions,
    "detection": detection,
}


def text(table: Tidy, *, width: int, color: bool, unicode: bool) -> str:
    """The columns of a table that are shown, for a terminal; a row is a line, in which words are cut, numbers never."""
    grid = Grid(box=box.SIMPLE if unicode else terminal.ASCII, show_edge=False, padding=(0, 1, 0, 0))
    lines = table.cells()
    for column, (name, numbers) in enumerate(zip(table.shown, table.numbers(), strict=True)):
        widest = max(len(cell) for cell in [name, *(line[column] for line in lines)])
        grid.add_column(name, justify="right" if numbers else "left", min_width=widest if numbers else None)
    for line in lines:
        styles = [terminal.STYLES.get(cell, "") for cell in line]
        grid.add_row(*(Text(*cell, no_wrap=True, overflow="ellipsis") for cell in zip(line, styles, strict=True)))
    console = terminal.recording(width, color=color)
    console.print(grid)
    return terminal.printed(console)
