"""How time and memory grow with images, draws, the width of the models and the number of classes.

Each measurement has a process of its own, so that its peak of memory is its own, and one thread. Models are untrained
and images are noise, so that `lbfgs` ends sooner than on trained ones. Images of `reconstruct` are mapped from a file.
"""

import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.table import Grid, digits
from vaecore import (
    VAE,
    Classifier,
    ClassifierConfig,
    VAEConfig,
    VAEDetector,
    fit_scores,
    keep_freed_memory,
    lbfgs,
    log_likelihood,
    pgd,
    reconstruct,
    reconstruct_labels,
    squared_error,
)
from vaecore.suite.report.figures.style import Figure, look
from vaecore.suite.study.executors import forget_peak, peak_bytes
from vaecore.toolkit import answers, seeded

_SIDE = 28
_AT_ONCE = 10_000  # images that are written at a time
_WARM = 10  # images of a first call
_DRAWS = 10  # where they are not what grows
_LEAST = 0.01  # seconds or MiB in the figure
_MARKERS, _DASHES = "os^vDPX", ("-", "--", ":")
NAMES = {
    "images": "images",
    "draws": "draws of each image",
    "latent": "times as many latents",
    "hidden": "times as many hidden units",
    "classes": "classes",
}


@dataclass(frozen=True)
class Sizes:
    """What grows: images, draws of each, classes, and the factors of latents and hidden units of the usual models."""

    images: int = 1_000
    draws: int = _DRAWS
    latent: int = 1
    hidden: int = 1
    classes: int = 10

    @property
    def models(self) -> tuple[VAE, Classifier]:
        """Untrained models of these sizes, with the settings for MNIST otherwise."""
        usual, wide = VAEConfig(), ClassifierConfig().hidden_size
        config = VAEConfig(latent_size=self.latent * usual.latent_size, hidden_size=self.hidden * usual.hidden_size)
        with seeded(0, torch.device("cpu")):
            vae = VAE(config, (_SIDE, _SIDE))
            classifier = Classifier(ClassifierConfig(hidden_size=self.hidden * wide), (_SIDE, _SIDE), self.classes)
        return (
            vae.eval().requires_grad_(requires_grad=False),
            classifier.eval().requires_grad_(requires_grad=False),
        )


Call = Callable[[Any], object]


def _reconstruct(sizes: Sizes) -> Call:
    vae, _ = sizes.models
    return partial(_reduced, vae, draws=sizes.draws)


def _reduced(vae: VAE, images: Any, *, draws: int) -> Tensor:
    return reconstruct(vae, images, draws=draws, seed=0, reduce=squared_error)


def _labels(sizes: Sizes) -> Call:
    vae, classifier = sizes.models
    return lambda images: reconstruct_labels(vae, classifier, images, draws=sizes.draws, seed=0)


def _likelihood(sizes: Sizes) -> Call:
    vae, _ = sizes.models
    return lambda images: log_likelihood(vae, images, draws=sizes.draws, seed=0)


def _scores(sizes: Sizes) -> Call:
    vae, classifier = sizes.models
    train = torch.rand(1_000, 1, _SIDE, _SIDE, generator=torch.Generator().manual_seed(1))
    return fit_scores(vae, classifier, train, seed=0)


def _pgd(sizes: Sizes) -> Call:
    _, classifier = sizes.models
    return lambda images: pgd(classifier, images, _labels_of(classifier, images), epsilon=0.1, steps=10, seed=0)


def _lbfgs(sizes: Sizes) -> Call:
    _, classifier = sizes.models
    return lambda images: lbfgs(classifier, images, _labels_of(classifier, images), targeted=False)


def _detector(sizes: Sizes) -> Call:
    vae, classifier = sizes.models
    victim = VAEDetector(vae, classifier, draws=sizes.draws)
    setting: dict[str, Any] = {"epsilon": 0.1, "steps": 5, "step_size": 0.03, "seed": 0}
    return lambda images: pgd(victim, images, _labels_of(classifier, images), **setting)


def _labels_of(classifier: Classifier, images: Tensor) -> Tensor:
    """What the classifier says, so that no image is misclassified before it is attacked."""
    with torch.no_grad():
        return answers(classifier, images).argmax(dim=1)


_MAPPED = "reconstruct, errors"  # takes images that are mapped from a file
CALLS: dict[str, Callable[[Sizes], Call]] = {
    _MAPPED: _reconstruct,
    "reconstruct, labels": _labels,
    "log_likelihood": _likelihood,
    "scores": _scores,
    "pgd, 10 steps": _pgd,
    "lbfgs": _lbfgs,
    "pgd of a detector, 5 steps": _detector,
}
_FEW = {"lbfgs": 200, "pgd of a detector, 5 steps": 100}  # images of what takes long for each


@dataclass(frozen=True)
class Line:
    """Sizes along which one call is measured."""

    axis: str
    call: str
    values: tuple[int, ...]
    common: Mapping[str, int] = field(default_factory=dict)

    def sizes(self, value: int) -> Sizes:
        """All sizes at one place of the line."""
        few = {"images": _FEW[self.call]} if self.call in _FEW else {}
        return Sizes(**{**few, **self.common, self.axis: value})


_MANY, _SHARE, _FACTORS, _CLASSES = (1_000, 10_000, 100_000), (1, 10, 100, 1_000), (1, 4, 10), (10, 100, 1_000)
LINES = (
    Line("images", _MAPPED, (*_MANY, 1_000_000)),
    *(Line("images", name, _MANY) for name in ("log_likelihood", "scores")),
    Line("images", "pgd, 10 steps", (1_000, 10_000, 30_000)),
    Line("images", "lbfgs", (200, 2_000, 6_000)),
    *(Line("draws", name, _SHARE) for name in (_MAPPED, "reconstruct, labels", "log_likelihood")),
    Line("draws", "pgd of a detector, 5 steps", _SHARE, {"images": 10}),
    *(
        Line(axis, name, _FACTORS)
        for axis in ("latent", "hidden")
        for name in (_MAPPED, "log_likelihood", "scores", "pgd of a detector, 5 steps")
    ),
    Line("hidden", "lbfgs", _FACTORS),
    *(Line("classes", name, _CLASSES) for name in ("reconstruct, labels", "pgd, 10 steps", "lbfgs")),
    Line("classes", "pgd of a detector, 5 steps", _CLASSES),
)


@dataclass(frozen=True)
class Point:
    """Seconds of a call, and MiB that it took beyond what was there before."""

    axis: str
    call: str
    value: int
    seconds: float
    mib: float


def growth(lines: Sequence[Line] = LINES) -> Iterator[Point]:
    """Measure each place of each line, on one thread."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            for value in line.values:
                sizes, path = line.sizes(value), Path(folder, "images.npy")
                _write(path, sizes.images)
                with ProcessPoolExecutor(1, context) as alone:
                    seconds, mib = alone.submit(_measure, line.call, sizes, path).result()
                yield Point(line.axis, line.call, value, seconds, mib)


def _measure(name: str, sizes: Sizes, path: Path) -> tuple[float, float]:
    torch.set_num_threads(1)
    keep_freed_memory()
    call, images = CALLS[name](sizes), np.load(path, mmap_mode="r")
    if name != _MAPPED:
        images = torch.from_numpy(np.array(images))
    call(images[:_WARM])
    forget_peak()
    before, begin = _peak(), time.perf_counter()
    call(images)
    return time.perf_counter() - begin, (_peak() - before) / 2**20


def _peak() -> int:
    return (peak_bytes() or (0,))[0]


def _write(path: Path, count: int) -> None:
    """Write noise to an .npy file."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (count, 1, _SIDE, _SIDE))
    generator = np.random.default_rng(0)
    for start in range(0, count, _AT_ONCE):
        rows = array[start : start + _AT_ONCE]
        rows[:] = generator.random(rows.shape, dtype=np.float32)
        array.flush()


def table(points: Sequence[Point]) -> Grid:
    """Seconds and MiB at each place, and between the last two the power of the size with which time grows."""
    grid: Grid = [("grows", "call", "sizes", "seconds", "MiB more", "power of time")]
    for (axis, call), some in by_line(points).items():
        last, before = some[-1], some[-2]
        power = math.log(last.seconds / before.seconds) / math.log(last.value / before.value)
        grid.append(
            (
                axis,
                call,
                ", ".join(f"{point.value:,}" for point in some),
                ", ".join(digits(point.seconds, 2) for point in some),
                ", ".join(f"{point.mib:,.0f}" for point in some),
                f"{power:.2f}",
            )
        )
    return grid


def plot(points: Sequence[Point], path: Path) -> None:
    """Draw and write seconds, above, and MiB, below, against each size."""
    with look({}):
        axes = list(dict.fromkeys(point.axis for point in points))
        calls = list(dict.fromkeys(point.call for point in points))
        figure = Figure(figsize=(2.9 * len(axes), 5.8), layout="constrained")
        rows = figure.subplots(2, len(axes), squeeze=False)
        for (axis, call), some in by_line(points).items():
            place, style = axes.index(axis), calls.index(call)
            for row, name in zip(rows, ("seconds", "mib"), strict=True):
                row[place].plot(
                    [point.value for point in some],
                    [max(getattr(point, name), _LEAST) for point in some],
                    color=f"C{style}",
                    marker=_MARKERS[style],
                    linestyle=_DASHES[style % len(_DASHES)],
                    label=call,
                )
        for row, label in zip(rows, ("seconds", "MiB more"), strict=True):
            row[0].set_ylabel(label)
            for panel, axis in zip(row, axes, strict=True):
                panel.set(xscale="log", yscale="log", xlabel=NAMES[axis])
                panel.grid(alpha=0.3)
        handles = {name: one for panel in rows[0] for one, name in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, dpi=150)


def by_line(points: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """Points of each axis and call."""
    lines: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        lines.setdefault((point.axis, point.call), []).append(point)
    return lines
