"""The files of a report's figures, drawn once by the workers and kept in the store until what they show changes."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from claims import figures, figures_cleaning, figures_decisions, figures_outside
from claims.study import Study
from vaecore._store import Tensors, digest, source_digest

Results = Mapping[str, Any]
DRAWINGS: dict[str, Callable[[Results], Figure]] = {
    "distinct-labels": figures.distinct_labels,
    "error-by-confidence": figures.error_by_confidence,
    "convergence": figures.convergence,
    "detection-matrix": figures_outside.detection_matrix,
    "score-histograms": figures_outside.score_histograms,
    "latent-space": figures_outside.latent_space,
    "extreme-images": figures_outside.extreme_images,
    "accuracy-by-epsilon": figures_cleaning.accuracy_by_epsilon,
    "cleaned-images": figures_cleaning.cleaned_images,
}
_OF_DECISIONS: dict[str, Callable[[Results], Figure]] = {
    "reliability": figures_decisions.reliability_diagrams,
    "risk-coverage": figures_decisions.risk_coverage,
}
_PHOTOGRAPHS = {"extreme-images", "cleaned-images"}  # figures that gain nothing by being SVG
_NOT_SHOWN = {"made", "git_revision", "environment", "wall_seconds"}  # of the results, by any figure
_STAGE = source_digest(figures, figures_cleaning, figures_decisions, figures_outside), version("matplotlib")


def files(results: Results) -> list[tuple[str, str]]:
    """Name and suffix of each file that shows these results."""
    names = [*DRAWINGS, *(_OF_DECISIONS if results["decisions"] is not None else ())]
    return [(name, suffix) for name in names for suffix in (("png",) if name in _PHOTOGRAPHS else ("png", "svg"))]


def draw(results: Results, name: str, suffix: str) -> bytes:
    """A figure as a file's content."""
    return figures.render((DRAWINGS | _OF_DECISIONS)[name](results), suffix)


def kept(study: Study, results: Results, plain: Callable[[Any], Any]) -> dict[str, bytes]:
    """The content of each file, from the store or by the workers. plain: makes results what JSON can hold."""
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
