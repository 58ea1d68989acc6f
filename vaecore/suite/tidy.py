"""Tables of plain values that leave the house: as text, HTML, CSV, Parquet, data frame."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from vaecore.suite.text import printable


@dataclass(frozen=True, repr=False)
class Tidy:
    """A table of plain values, all rows with the same columns; None where a number is not defined.

    rows: by column. shown: the columns that are shown, as all would not fit a screen; exports have all. Where the last
    one has no value, the row's message is shown. `print` shows it as text, and a notebook as a table.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    shown: Sequence[str] = field(default=(), repr=False)

    def __repr__(self) -> str:
        """Number of rows, and the columns."""
        return f"Tidy({len(self)} rows of {', '.join(self.columns)})"

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

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

    def cells(self) -> list[list[str]]:
        """The columns that are shown, as texts in rows."""
        values = [[row[name] for name in self.shown] for row in self.rows]
        for row, line in zip(self.rows, values, strict=True):
            line[-1] = row.get("message") if line[-1] is None else line[-1]
        return [[_text(value) for value in line] for line in values]

    def numbers(self) -> list[bool]:
        """Whether each column that is shown is of numbers."""
        return [any(isinstance(row[name], int | float) for row in self.rows) for name in self.shown]

    def __str__(self) -> str:
        """The columns that are shown, as text."""
        lines = [[*self.shown], *self.cells()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        sides = [">" if numbers else "<" for numbers in self.numbers()]
        forms = [f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True)]
        return "\n".join("  ".join(map(str.format, forms, line)).rstrip() for line in lines)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.shown)
        lines = ("".join(f"<td>{escape(cell)}</td>" for cell in line) for line in self.cells())
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else printable(str(value))


def frame(columns: Mapping[str, Any]) -> Any:
    """A `pandas.DataFrame` of columns of one length; raises ImportError where pandas is not installed."""
    try:
        import pandas as pd  # noqa: PLC0415  # optional, and slow to import
    except ImportError as error:
        raise ImportError("to_frame needs pandas (python -m pip install pandas)") from error
    return pd.DataFrame(dict(columns))
