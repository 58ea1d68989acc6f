"""The files of a report's figures, drawn once by the workers and kept in the store until what they show changes."""

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from claims import captions, figures, figures_cleaning, figures_decisions, figures_outside, pack, style
from claims.captions import caption
from claims.results import plain
from claims.study import Study
from vaecore._store import Tensors, digest, source_digest

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


def files(results: Results) -> list[tuple[str, str]]:
    """Name and suffix of each file that shows these results."""
    return [(name, suffix) for name in captions.shown(results) for suffix in ("png", "svg")]


def draw(results: Results, name: str, suffix: str) -> bytes:
    """A figure under its title, as a file's content."""
    with mpl.rc_context(style.LOOK):
        figure = DRAWINGS[name](results)
        said = caption(results, name)
        figure.suptitle(f"{results['dataset']['name']}: {said.title}\nn: {said.count}")
        return style.render(figure, suffix)


def kept(study: Study, results: Results) -> dict[str, bytes]:
    """The content of each file, from the store or by the workers."""
    shown = {key: value for key, value in results.items() if key not in _NOT_SHOWN}
    key = digest(plain(shown), *_STAGE)
    calls = [(name, suffix, key, shown) for name, suffix in files(results)]
    with study.timed("figures"), study.meter("drawing the figures") as advance:
        found = study.each(_drawn, calls, advance)
    return {
        f"{name}.{suffix}": content.numpy().tobytes() for (name, suffix, *_), content in zip(calls, found, strict=True)
    }


def _drawn(study: Study, name: str, suffix: str, key: str, results: Results) -> torch.Tensor:
    def compute() -> Tensors:
        return {"content": torch.from_numpy(np.frombuffer(draw(results, name, suffix), dtype=np.uint8).copy())}

    return study.store.get("figures", digest(name, suffix, key), compute)["content"]
