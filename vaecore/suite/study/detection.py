"""How every score tells every set outside from the test images: the report's matrix, and what its figures show."""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaecore import _metrics
from vaecore._metrics import aupr, fpr95
from vaecore._noise import seed_for, words
from vaecore._store import Tensors, digest, source_digest
from vaecore.reconstruction._decode import posterior
from vaecore.scoring._scores import scores
from vaecore.suite.packing import pack
from vaecore.suite.statistics import intervals as inference
from vaecore.suite.statistics import rank_statistics as ranks
from vaecore.suite.statistics.intervals import auroc, interval
from vaecore.suite.study.draws import LBFGS, Table, perturb
from vaecore.suite.study.outside import INSIDE
from vaecore.suite.study.study import EVIDENCE_STAGE, Study

LEVEL = 0.95  # of the intervals, which describe and decide nothing
PIXELS, LATENTS = "mse", "latent-knn"  # scores whose extreme images are shown
BINS = 40
ENDS = 4  # images shown at each end of a score
POINTS = 200  # images of each group in the map of the latent space,
ATTACKS = ("fgsm-0.2", LBFGS)  # attacked ones among them, and
LEARNT = 5_000  # training images, whose principal components it shows

Values = NDArray[np.floating[Any]]


def gather(study: Study) -> dict[str, Any]:
    """The matrix over all sets, and the content of the figures, as plain values; the figures show the first run."""
    sets = [*study.outside.sources]
    cells = matrix(study, sets)
    tables = {name: study.outside.scores(name) for name in (INSIDE, *sets)}
    return {
        "level": LEVEL,
        "images": {name: table[PIXELS].shape[1] for name, table in tables.items()},
        "about": {name: scores[name].description for name in cells},
        "cells": cells,
        "histograms": {name: _histogram(name, cells[name], tables) for name in cells},
        "latent": _latent_map(study),
        "extremes": {name: _extremes(study, name, table) for name, table in tables.items()},
    }


def matrix(study: Study, sets: Iterable[str]) -> dict[str, dict[str, dict[str, float]]]:
    """For each score and set: auroc with ends low and high, aupr_in, aupr_out and fpr95, each a mean over runs.

    All are NaN where an interval can't be had: with NaN among the scores, or with one image.
    """
    names, sets = _names(study), [*sets]
    for one in sets:
        study.outside.scores(one)
    with study.timed("scores"), study.meter("intervals of the detection matrix") as advance:
        columns = dict(zip(sets, study.each(_cells, [(one,) for one in sets], advance), strict=True))
    return {name: {one: column[name] for one, column in columns.items()} for name in names}


def _names(study: Study) -> list[str]:
    """The scores that the study has, in the order of `vaecore.scores`."""
    there = study.outside.scores(INSIDE).columns
    return [name for name in scores if name in there]


def _cells(study: Study, one: str) -> dict[str, dict[str, float]]:
    """The column of the matrix that a set makes; kept in the store."""
    inside, outside, paired = study.outside.scores(INSIDE), study.outside.scores(one), study.outside.is_made(one)
    names = _names(study)
    contents = [torch.from_numpy(table[name]) for name in names for table in (inside, outside)]

    def compute() -> Tensors:
        rows = [_cell(inside[name], outside[name], paired=paired) for name in names]
        return {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in rows[0]}

    kept = study.store.get("evidence", digest("matrix", LEVEL, paired, names, *contents, _STAGE), compute)
    return {name: {key: float(column[place]) for key, column in kept.items()} for place, name in enumerate(names)}


def _cell(inside: Values, outside: Values, *, paired: bool) -> dict[str, float]:
    found = interval(auroc(inside, outside, paired=paired), LEVEL)
    if not np.isfinite(found.low):
        return dict.fromkeys(("auroc", "low", "high", "aupr_in", "aupr_out", "fpr95"), float("nan"))
    runs = list(zip(inside, outside, strict=True))
    return {
        "auroc": found.estimate,
        "low": found.low,
        "high": found.high,
        "aupr_in": float(np.mean([aupr(-high, -low) for low, high in runs])),
        "aupr_out": float(np.mean([aupr(low, high) for low, high in runs])),
        "fpr95": float(np.mean([fpr95(low, high) for low, high in runs])),
    }


def _histogram(name: str, row: dict[str, dict[str, float]], tables: dict[str, Table]) -> dict[str, Any]:
    """Shares of images in bins of a score: inside, and the sets that it tells best and worst."""
    known = [one for one in row if np.isfinite(row[one]["auroc"])] or [*row]
    best, worst = (choose(known, key=lambda one: row[one]["auroc"]) for choose in (max, min))
    values = {one: tables[one][name][0].astype(np.float64) for one in dict.fromkeys((INSIDE, best, worst))}
    # From where the images that are hard to tell lie, with room on both sides; what is beyond counts in the last bins.
    hard = np.concatenate([values[INSIDE], values[worst]])
    low, high = np.quantile(hard[np.isfinite(hard)], [0.005, 0.995]) if np.isfinite(hard).any() else (0.0, 1.0)
    room = (high - low) / 4 or 1
    edges = np.linspace(low - room, high + room, BINS + 1)
    counts = {
        one: np.histogram(value[~np.isnan(value)].clip(edges[0], edges[-1]), edges)[0] for one, value in values.items()
    }
    shares = {one: (count / max(1, count.sum())).tolist() for one, count in counts.items()}
    return {"best": best, "worst": worst, "edges": edges.tolist(), "shares": shares}


def _latent_map(study: Study) -> dict[str, Any]:
    """Posterior means in the plane of the first two principal components; the first run.

    The components are those of random training images or, where finished models came without any, of the test images.
    Sets of which nothing is left are not in it. A latent space of one dimension is shown along one axis.
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415  # takes seconds to import

    run, train = study.run(0), study.outside.train
    whole = study.test if train is None else train
    chosen = words(seed_for("latent-map", 0), torch.arange(len(whole)), draws=1, size=1).flatten().argsort()[:LEARNT]
    learnt = _means(study, whole.pixels[chosen])
    plane = PCA(min(2, *learnt.shape), svd_solver="full").fit(learnt)
    groups = {INSIDE: study.outside.images(INSIDE)[0].pixels[:POINTS]}
    groups |= {name: study.outside.images(name)[0].pixels[:POINTS] for name in study.outside.sources}
    groups |= {name: _attacked(study, name) for name in ATTACKS}
    points = {name: plane.transform(_means(study, pixels)) for name, pixels in groups.items() if len(pixels) > 0}
    missing = 2 - plane.n_components_
    return {
        "seed": run.seed,
        "of": "test" if train is None else "training",
        "explained": [*plane.explained_variance_ratio_.tolist(), *[0.0] * missing],
        "points": {name: np.round(np.pad(found, ((0, 0), (0, missing))), 3).tolist() for name, found in points.items()},
    }


def _means(study: Study, pixels: torch.Tensor) -> Values:
    with torch.no_grad():
        means: Values = posterior(study.run(0).vae, pixels.to(study.device))[0].cpu().double().numpy()
    return means


def _attacked(study: Study, condition: str) -> torch.Tensor:
    """The first test images under attack in the first run, those of them on which it succeeded."""
    run = study.run(0)
    shard = study.shard(run, study.indices[:POINTS])
    key = digest("attacked", condition, run.classifier_digest, *shard.known, EVIDENCE_STAGE, study.device.type)

    def compute() -> Tensors:
        attack = perturb(run.vae, run.classifier, shard.to(study.device), condition)
        return {"images": attack.images[attack.success].cpu()}

    return study.store.get("evidence", key, compute)["images"]


def _extremes(study: Study, name: str, table: Table) -> dict[str, Any]:
    """Images of a set with the least and the most anomalous scores of the first run, each from the end inwards."""
    images, indices = study.outside.images(name)
    found = {}
    for score in (one for one in (PIXELS, LATENTS) if one in table.columns):
        order = table[score][0].argsort(kind="stable")
        ends = {"least": order[:ENDS], "most": order[: -ENDS - 1 : -1]}
        found[score] = {
            end: {
                "index": indices[places.copy()].tolist(),
                "score": table[score][0][places].tolist(),
                "pixels": pack(images.pixels[places.copy()]),
            }
            for end, places in ends.items()
        }
    return found


# Taken at import, as in `claims.study`.
_STAGE = source_digest(inference, ranks, _metrics, sys.modules[__name__])
