"""The files of a report's figures, drawn once by the workers and kept in the store until what they show changes."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from vaecore._store import Tensors, digest, source_digest
from vaecore.suite import packing as pack
from vaecore.suite.report import captions, figures, figures_cleaning, figures_decisions, figures_outside, style
from vaecore.suite.report.captions import caption
from vaecore.suite.results import plain
from vaecore.suite.study.study import Study

Results = Mapping[str, Any]
DRAWINGS: dict[str, Callable[[Results], Figure]] = {
    "distinct-labels": figures.distinct_labels,
    "contact-sheet": figures.contact_sheet,
    "convergence": figures.convergence,
    "error-by-confidence": figures.error_by_confidence,
    "detection-matrix": figures_outside.detection_matrix,
    "score-histograms": figures_outside.score_histograms,
    "latent-space": figures_outside.latent_space,
    "extreme-images": figures_outside.extreme_images,
    "accuracy-by-epsilon": figures_cleaning.accuracy_by_epsilon,
    "cleaned-images": figures_cleaning.cleaned_images,
    "reliability": figures_decisions.reliability_diagrams,
    "risk-coverage": figures_decisions.risk_coverage,
}
_NOT_SHOWN = {"made", "git_revision", "command", "environment", "wall_seconds"}  # of the results, by any figure
_SOURCES = (captions, figures, figures_cleaning, figures_decisions, figures_outside, pack, style)
_STAGE = source_digest(sys.modules[__name__], *_SOURCES), version("matplotlib")


SUFFIXES = ("png", "svg")


def draw(results: Results, name: str) -> dict[str, bytes]:
    """A figure under its title: the content of each of its files, by suffix."""
    with mpl.rc_context(style.LOOK):
        figure = DRAWINGS[name](results)
        said = caption(results, name)
        figure.suptitle(f"{results['dataset']['name']}: {said.title}\nn: {said.count}")
        found = {}
        for suffix in SUFFIXES:
            found[suffix] = style.render(figure, suffix)
            figure.set_layout_engine("none")  # what was laid out stays where it is, as laying out takes half the time
        return found


def drawn(results: Results, study: Study | None = None) -> dict[str, bytes]:
    """The content of each file that shows these results; from a study's store or by its workers, where it is given."""
    names = captions.shown(results)
    if study is None:
        return _files(names, [draw(results, name) for name in names])
    shown = {key: value for key, value in results.items() if key not in _NOT_SHOWN}
    key = digest(plain(shown), *_STAGE)
    calls = [(name, key, shown) for name in names]
    with study.timed("figures"), study.meter("drawing the figures") as advance:
        found = study.each(_kept, calls, advance)
    return _files(names, [{suffix: one[suffix].numpy().tobytes() for suffix in SUFFIXES} for one in found])


def _files(names: Iterable[str], found: Iterable[Mapping[str, bytes]]) -> dict[str, bytes]:
    return {f"{name}.{suffix}": one[suffix] for name, one in zip(names, found, strict=True) for suffix in SUFFIXES}


def _kept(study: Study, name: str, key: str, results: Results) -> Tensors:
    def compute() -> Tensors:
        contents = draw(results, name)
        return {suffix: torch.from_numpy(np.frombuffer(contents[suffix], dtype=np.uint8).copy()) for suffix in SUFFIXES}

    return study.store.get("figures", digest(name, key), compute)
