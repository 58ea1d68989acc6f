"""Results as tidy tables: a row for each claim, condition, or score and set outside."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table as Grid
from rich.text import Text

from vaecore.suite.frames import frame
from vaecore.suite.judging.registry import family_of
from vaecore.suite.report import terminal
from vaecore.suite.results import plain
from vaecore.suite.text import printable

NO_VERDICT = "no verdict"  # of a claim that was not concluded; its message says why
_CLAIMS = (
    *("claim", "family", "kind", "verdict", "estimate", "low", "high", "level", "bound", "bound_low", "bound_high"),
    *("runs", "images", "power", "same", "again_supported", "needed_images", "needed_runs", "pick", "registered"),
    *("conditions", "sentence", "estimand", "message"),
)
_CONDITIONS = (
    *("condition", "title", "images", "accuracy", "success", "unsuccessful", "consistent", "l2", "mse", "kl"),
    "threat",
)
_DETECTION = ("score", "set", "group", "images", "auroc", "low", "high", "aupr_in", "aupr_out", "fpr95")


@dataclass(frozen=True)
class Tidy:
    """A table of plain values, all rows with the same columns; None where a number is not defined.

    rows: by column. shown: the columns that are shown, as all would not fit a screen; exports have all. Where the last
    one has no value, the row's message is shown. A notebook shows it as a table.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    shown: Sequence[str] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __str__(self) -> str:
        """The columns that are shown, as text for a terminal."""
        return self.text(width=120)

    def to_frame(self) -> Any:
        """All rows as a `pandas.DataFrame`; raises ImportError where pandas is not installed."""
        return frame({name: [row[name] for row in self.rows] for name in self.columns})

    def csv(self) -> str:
        """All rows as CSV, with a line of names; empty where a number is not defined."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def parquet(self) -> bytes:
        """All rows as a Parquet file; raises ImportError where pyarrow is not installed."""
        try:
            import pyarrow as pa  # noqa: PLC0415  # optional, and slow to import
            import pyarrow.parquet as pq  # noqa: PLC0415
        except ImportError as error:
            raise ImportError("Parquet needs pyarrow (python -m pip install pyarrow), CSV nothing") from error
        content = io.BytesIO()
        pq.write_table(pa.table({name: [row[name] for row in self.rows] for name in self.columns}), content)
        return content.getvalue()

    def text(self, *, width: int, color: bool = False, unicode: bool = False) -> str:
        """The columns that are shown, as text."""
        console = terminal.recording(width, color=color)
        console.print(self._grid(unicode=unicode))
        return terminal.printed(console)

    def _grid(self, *, unicode: bool) -> Grid:
        grid = Grid(box=box.SIMPLE if unicode else terminal.ASCII, show_edge=False)
        for name in self.shown:
            numbers = any(isinstance(row[name], int | float) for row in self.rows)
            grid.add_column(name, justify="right" if numbers else "left", no_wrap=numbers or name == self.shown[0])
        for row in self.rows:
            *values, last = (row[name] for name in self.shown)
            grid.add_row(*map(_cell, [*values, row.get("message") if last is None else last]))
        return grid

    def _repr_mimebundle_(self, include: Sequence[str], exclude: Sequence[str], **settings: Any) -> dict[str, str]:
        """How a notebook shows it."""
        return self._grid(unicode=True)._repr_mimebundle_(include, exclude, **settings)


def _cell(value: Any) -> Text:
    text = "" if value is None else f"{value:.3f}" if isinstance(value, float) else printable(str(value))
    return Text(text, style=terminal.STYLES.get(text, ""))


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
