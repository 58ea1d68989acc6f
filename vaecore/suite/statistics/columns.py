"""Arrays that carry their origin: the conditions that they look at, and the share of the images that was kept."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Origin:
    """Where numbers come from; `|` joins two.

    conditions: names of the conditions looked at. kept: share of the images that was kept where those on which an
    attack failed are left out; the smallest, of several conditions. failed: share of the images looked at on which an
    attack failed; the largest.
    """

    conditions: frozenset[str] = frozenset()
    kept: float = 1.0
    failed: float = 0.0

    def __or__(self, other: "Origin") -> "Origin":
        """The origin of a result of both."""
        return Origin(self.conditions | other.conditions, min(self.kept, other.kept), max(self.failed, other.failed))


NOWHERE = Origin()


class Column(np.ndarray[Any, np.dtype[Any]]):
    """An array with an `origin`. Arrays computed from columns have the origin of all of them."""

    origin: Origin

    def __new__(cls, values: ArrayLike, origin: Origin) -> Self:
        """A view of the values, with this origin."""
        column = np.asarray(values).view(cls)
        column.origin = origin
        return column

    def __array_finalize__(self, source: Any) -> None:
        """Slices and copies keep the origin."""
        self.origin = getattr(source, "origin", NOWHERE)

    def __array_ufunc__(self, ufunc: np.ufunc, method: Any, *inputs: Any, **settings: Any) -> Any:
        """Results of arithmetic and comparison have the origins of all inputs."""
        settings = {name: _plain(value) for name, value in settings.items()}
        result = getattr(ufunc, method)(*map(_plain, inputs), **settings)
        return _with_origin(result, origin_of(inputs))

    def __array_function__(self, function: Any, types: Any, inputs: Any, settings: Any) -> Any:
        """Results of numpy's other functions have them, too."""
        result = super().__array_function__(function, types, inputs, settings)
        return _with_origin(result, origin_of((inputs, settings)))


def origin_of(values: Any) -> Origin:
    """The origin of a value, or of all that a sequence or mapping holds."""
    if isinstance(getattr(values, "origin", None), Origin):
        origin: Origin = values.origin
        return origin
    joined = NOWHERE
    if isinstance(values, Mapping):
        values = values.values()
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | np.ndarray):
        for value in values:
            joined |= origin_of(value)
    return joined


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.view(np.ndarray) if isinstance(value, Column) else value


def _with_origin(result: Any, origin: Origin) -> Any:
    if isinstance(result, tuple):
        values = [_with_origin(value, origin) for value in result]
        return type(result)(*values) if hasattr(result, "_fields") else tuple(values)
    return Column(result, origin) if isinstance(result, np.ndarray) else result
