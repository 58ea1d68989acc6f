"""Tables: one row for each image of a run, with the condition that was looked at and the share of images kept.

A table asks for its columns when one is first looked at, so that tables can be planned before they are computed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaecore import distinct_labels
from vaecore.suite.statistics.columns import NOWHERE, Column, Origin
from vaecore.suite.tidy import frame
from vaecore.toolkit import Tensors

Columns = Mapping[str, NDArray[Any]]
_OF_DRAWS = ("distinct", "consistent", "disagreement", "mse", "doubt", "wrong")  # properties of a table of draws


def stack(runs: Sequence[Tensors]) -> Columns:
    """Columns (runs, images) of the tensors (images,) of each run."""
    return {name: np.stack([run[name].numpy() for run in runs]) for name in runs[0]}


def join(shards: Sequence[Tensors], each: int) -> Columns:
    """As `stack`, of the shards of each run, of which it has `each`, run after run."""
    runs = [shards[start : start + each] for start in range(0, len(shards), each)]
    return stack([{name: torch.cat([shard[name] for shard in run]) for name in run[0]} for run in runs])


def failures(columns: Columns) -> float:
    """Share of runs and images on which an attack did not reach its aim."""
    return float((~columns["success"]).mean()) if "success" in columns else 0.0


Places = Any  # of images: what numpy takes as an index
Content = tuple[Columns, Origin]


class Table:
    """What models say of images under a condition: columns (runs, images) or, named `draw_`, (runs, images, draws).

    Each column carries the condition, and the share of its images that is kept. What is said of the draws (`distinct`,
    `disagreement`, `mse`) is said of all that the table has. Columns are described where they are computed:
    `study/draws.py`, `study/outside.py`, `study/cleaning.py`, `study/decisions.py`.
    """

    def __init__(self, load: Callable[[], Content]) -> None:
        """load: gives the columns and their origin, once, when a column is first looked at."""
        self._content = cache(load)

    def __repr__(self) -> str:
        """Its columns, with their shapes, where it was looked at: to show it computes nothing."""
        if not self._content.cache_info().currsize:
            return "Table(not computed yet)"
        shapes = ", ".join(f"{name} {tuple(column.shape)}" for name, column in self.columns.items())
        return f"Table({shapes})"

    @classmethod
    def of(cls, columns: Columns, origin: Origin = NOWHERE) -> "Table":
        """A table of given columns."""
        return cls(lambda: (columns, origin))

    @property
    def columns(self) -> Columns:
        """The columns as plain arrays, by name."""
        return self._content()[0]

    @property
    def origin(self) -> Origin:
        """The conditions looked at, and the share of images kept."""
        return self._content()[1]

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of this name."""
        return name in self.columns

    def __getitem__(self, name: str) -> Column:
        """A column by its name."""
        return self._column(self.columns[name])

    def to_frame(self) -> Any:
        """A `pandas.DataFrame` with a row for each run and image; raises ImportError where pandas is not installed.

        run: counted from 0. Then all columns, and, where there are draws, what the properties of this class say of
        them; last the draws, as `draw_mse_0`, `draw_mse_1`, ... index: of the image in the data set, of what looks at
        test images. Columns of fewer images are NaN on the others.
        """
        columns = dict(self.columns)
        derived = _OF_DRAWS if "draw_label" in columns else ()
        columns |= {name: np.asarray(getattr(self, name)) for name in derived}
        runs, images = next(iter(columns.values())).shape[0], max(column.shape[1] for column in columns.values())
        cells: dict[str, NDArray[Any]] = {"run": np.repeat(np.arange(runs), images)}
        for name, column in sorted(columns.items(), key=lambda named: named[1].ndim):
            if column.shape[1] < images:
                gap = [(0, 0), (0, images - column.shape[1]), *[(0, 0)] * (column.ndim - 2)]
                column = np.pad(column.astype(np.float64), gap, constant_values=np.nan)  # noqa: PLW2901
            rows = column.reshape(runs * images, -1)
            names = [name] if column.ndim == 2 else [f"{name}_{draw}" for draw in range(rows.shape[1])]
            cells |= dict(zip(names, rows.T, strict=True))
        return frame(cells)

    def take(self, images: Places | Callable[[], Places], *, of: int | None = None) -> "Table":
        """The same table for some of its images; of: how many there were, where the others had to be left out."""

        def load() -> Content:
            columns, origin = self._content()
            places = images() if callable(images) else images
            kept = 1.0 if of is None else len(places) / of
            images_of_all = max(column.shape[1] for column in columns.values())
            chosen = {
                name: column[:, places]
                for name, column in columns.items()
                if column.shape[1] == images_of_all or isinstance(places, slice)
            }  # columns of fewer images are left out, but where the first images are taken
            failed = failures(chosen) if origin.failed else 0.0
            return chosen, Origin(origin.conditions, min(kept, origin.kept), failed)

        return Table(load)

    def first_draws(self, draws: int) -> "Table":
        """The same table with the first draws only; raises ValueError, when looked at, where it has fewer."""

        def load() -> Content:
            columns, origin = self._content()
            most = columns["draw_label"].shape[2]
            if not 1 <= draws <= most:
                raise ValueError(f"draws must be from 1 to {most}, those that were collected; got {draws}")
            short = {name: column[:, :, :draws] for name, column in columns.items() if name.startswith("draw_")}
            return {**columns, **short}, origin

        return Table(load)

    @property
    def distinct(self) -> Column:
        """Number of distinct labels over the draws."""
        labels = torch.from_numpy(np.ascontiguousarray(self.columns["draw_label"]))
        return self._column(distinct_labels(labels.flatten(0, 1)).view(labels.shape[:2]).numpy())

    @property
    def consistent(self) -> Column:
        """Whether all reconstructions of an image got one label."""
        return self._column(self.distinct == 1)

    @property
    def disagreement(self) -> Column:
        """Soft disagreement, 0 to 1: one minus the mean probability of the image's own label over its draws."""
        return self._column(1 - self.columns["draw_own_probability"].mean(axis=2, dtype=np.float64))

    @property
    def mse(self) -> Column:
        """Reconstruction error: pixel MSE, mean over the draws."""
        return self._column(self.columns["draw_mse"].mean(axis=2, dtype=np.float64))

    @property
    def magnet_error(self) -> Column:
        """MagNet's error: mean absolute error of the image decoded from the posterior mean."""
        return self["magnet-error"]

    @property
    def magnet_divergence(self) -> Column:
        """MagNet's divergence of the classifier's answers to the image and to the image decoded from that mean."""
        return self["magnet-divergence"]

    @property
    def marks(self) -> Column:
        """Share of pixels that are not exactly 0: a detector that knows no model."""
        return self._column(1 - self.columns["zeros"].astype(np.float64))

    @property
    def doubt(self) -> Column:
        """One minus the classifier's max softmax: the trivial detector."""
        return self._column(1 - self.columns["confidence"])

    @property
    def wrong(self) -> Column:
        """Whether the classifier's label is not the image's."""
        return self._column(self.columns["predicted"] != self.columns["label"])

    def _column(self, values: NDArray[Any]) -> Column:
        return Column(values, self.origin)
