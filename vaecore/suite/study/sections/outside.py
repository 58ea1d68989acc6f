"""Family C: how well each score detects each set outside, and what its figures show."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaecore import Autoencoder, aupr, fpr95, scores
from vaecore.suite.images import pack
from vaecore.suite.statistics.estimates import auroc
from vaecore.suite.statistics.intervals import interval
from vaecore.suite.study.conditions import AWAY, FGSM, HIDDEN, HIDDEN_BY, HOME, INSIDE, LBFGS, Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.kinds import ALARM_RATE
from vaecore.suite.study.outside import (
    ABROAD,
    HIDDEN_FROM,
    HIDING,
    P_VALUES,
    SCORES,
    paired_with_inside,
)
from vaecore.suite.study.sets import GROUPS, in_random_order, kind_of
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.study import Study
from vaecore.suite.study.tables import Columns, join
from vaecore.suite.study.tasks import Given, Task
from vaecore.toolkit import Tensors, flag_warnings, posterior

LEVEL = 0.95  # of the intervals, which describe and decide nothing
PIXELS, LATENTS = "mse", "latent-knn"  # scores whose extreme images are shown
BINS = 40
ENDS = 4  # images shown at each end of a score
POINTS = 200  # images of each group in the map of the latent space,
ATTACKS = (FGSM(1), LBFGS)  # attacked ones among them, and
FITTED_ON = 5_000  # training images, whose principal components it shows
# Sets that hide and that train a VAE: the first that is at hand.
NEARBY = ("kmnist", "letters", "cifar-100", "cifar-10", "svhn")
MEASURES = ("auroc", "low", "high", "aupr_in", "aupr_out", "fpr95")

Values = NDArray[np.floating[Any]]


def tasks(study: Study) -> list[Task]:
    """All that the section shows."""
    setup = study.setup
    every, near = [INSIDE, *setup.sets.conditions], _near(setup)
    shown: list[tuple[Evidence, Condition]] = [(SCORES, condition) for condition in every]
    if near is not None:
        shown += [(ABROAD, HOME(label=near.label)), (ABROAD, AWAY(label=near.label))]
    if setup.training is not None:
        shown += [(P_VALUES, condition) for condition in every]
        if near is not None:
            hidden = HIDDEN(HIDDEN_BY, label=near.label)
            shown += [(HIDING, hidden), (P_VALUES, hidden)]
    return [
        *(task for evidence, condition in shown for task in evidence.tasks(setup, condition)),
        *matrix_tasks(setup, setup.sets.conditions),
        *([] if near is None else [_abroad_column(setup, near)]),
        _means(setup),
    ]


def section(study: Study) -> dict[str, Any]:
    """The matrix over all sets, and the content of the figures, as plain values; the figures show the first run."""
    groups = {condition: study.setup.sets.group(condition) for condition in study.setup.sets.conditions}
    sets = sorted(groups, key=lambda condition: GROUPS.index(groups[condition]))
    cells = matrix(study, sets)
    names = {INSIDE.kind.name: INSIDE} | {condition.label: condition for condition in sets}
    tables = {name: study.table(condition, of=SCORES).columns for name, condition in names.items()}
    return {
        "level": LEVEL,
        "inside": INSIDE.kind.name,
        "groups": {condition.label: groups[condition] for condition in sets},
        "images": {name: columns[PIXELS].shape[1] for name, columns in tables.items()},
        "of_fewer": {name: tables[INSIDE.kind.name][name].shape[1] for name in cells if scores[name].expensive},
        "about": {name: scores[name].description for name in cells},
        "cells": cells,
        "histograms": {name: _histogram(name, cells[name], tables) for name in cells},
        "abroad": _abroad(study),
        "found": _found(study, sets),
        "hiding": _hiding(study),
        "latent": _latent_map(study),
        "extremes": {name: _extremes(study, condition, tables[name]) for name, condition in names.items()},
    }


def matrix(study: Study, sets: Iterable[Condition]) -> dict[str, dict[str, dict[str, float]]]:
    """For each score and set: auroc with ends low and high, aupr_in, aupr_out and fpr95, each a mean over runs.

    All are NaN where an interval can't be had: with NaN among the scores, or with one image.
    """
    sets = [*sets]
    inside = study.table(INSIDE, of=SCORES)
    columns = study.plan.results(matrix_tasks(study.setup, sets), "intervals of the detection matrix")
    names = [name for name in scores if name in inside]
    return {
        name: {
            condition.label: {measure: float(column[f"{name}/{measure}"]) for measure in MEASURES}
            for condition, column in zip(sets, columns, strict=True)
        }
        for name in names
    }


def matrix_tasks(setup: Setup, sets: Iterable[Condition]) -> list[Task]:
    """The columns of the matrix, each made by a set."""
    return [_column(setup, condition) for condition in sets]


def _column(setup: Setup, condition: Condition) -> Task:
    arguments = {"level": LEVEL, "paired": paired_with_inside(condition), "runs": len(setup.seeds)}
    inputs = {
        "inside": tuple(SCORES.tasks(setup, INSIDE)),
        "outside": tuple(SCORES.tasks(setup, condition)),
    }
    return Task(compare_scores, arguments, inputs, "detection", "detection matrix")


def compare_scores(
    level: float,
    paired: bool,  # noqa: FBT001  # tasks take all arguments by name
    runs: int,
    inside: tuple[Tensors, ...],
    outside: tuple[Tensors, ...],
) -> Tensors:
    """Measures "<score>/<measure>" of how well each score detects a set, of all runs; a task."""
    low, high = (join(parts, len(parts) // runs) for parts in (inside, outside))
    cells = {name: _cell(low[name], high[name], level, paired=paired) for name in low}
    return {
        f"{name}/{measure}": torch.tensor(value, dtype=torch.float64)
        for name, cell in cells.items()
        for measure, value in cell.items()
    }


def _cell(inside: Values, outside: Values, level: float, *, paired: bool) -> dict[str, float]:
    area = interval(auroc(inside, outside, paired=paired), level)
    if not np.isfinite(area.low):
        return dict.fromkeys(MEASURES, math.nan)
    runs = list(zip(inside, outside, strict=True))
    return {
        "auroc": area.estimate,
        "low": area.low,
        "high": area.high,
        "aupr_in": float(np.mean([aupr(-high, -low) for low, high in runs])),
        "aupr_out": float(np.mean([aupr(low, high) for low, high in runs])),
        "fpr95": float(np.mean([fpr95(low, high) for low, high in runs])),
    }


def _near(setup: Setup) -> Condition | None:
    """The set of which images hide, and on which another VAE is trained; None where there is none at hand."""
    at_hand = {kind_of(condition.label): condition for condition in setup.sets.conditions}
    return next((at_hand[kind] for kind in NEARBY if kind in at_hand), None)


def _abroad_column(setup: Setup, near: Condition) -> Task:
    home, away = (tuple(ABROAD.tasks(setup, kind(label=near.label))) for kind in (HOME, AWAY))
    arguments = {"level": LEVEL, "paired": False, "runs": len(setup.seeds)}
    return Task(compare_scores, arguments, {"inside": home, "outside": away}, "detection", "detection matrix")


def _abroad(study: Study) -> dict[str, Any] | None:
    """How well each score of VAEs trained on another set detects the test images, as the cells of the matrix."""
    near = _near(study.setup)
    if near is None:
        return None
    column = study.plan.results([_abroad_column(study.setup, near)])[0]
    names = [name for name in scores if f"{name}/auroc" in column]
    cells = {name: {measure: float(column[f"{name}/{measure}"]) for measure in MEASURES} for name in names}
    counts = {kind.name: ABROAD.count(study.setup, kind(label=near.label)) for kind in (HOME, AWAY)}
    return {"set": near.label, "images": counts, "cells": cells}


def _found(study: Study, sets: Iterable[Condition]) -> dict[str, Any] | None:
    """The share of each set that each score finds at a rate of false alarms, and that rate on test images."""
    if study.setup.training is None:
        return None
    tables = {condition.label or INSIDE.kind.name: study.table(condition, of=P_VALUES) for condition in (INSIDE, *sets)}
    names = [name for name in scores if name in tables[INSIDE.kind.name]]
    shares = {name: {label: _alarms(table.columns[name]) for label, table in tables.items()} for name in names}
    held = len(study.setup.held_out(study.setup.seeds[0]))
    return {"false_alarms": ALARM_RATE, "held_out": held, "shares": shares}


def _alarms(p_values: Values) -> float:
    return float(np.where(np.isnan(p_values), np.nan, p_values <= ALARM_RATE).mean())


def _hiding(study: Study) -> dict[str, Any] | None:
    """What an attacker gains who moves images outside to hide from a score, by that score and by each other."""
    near = _near(study.setup)
    if near is None or study.setup.training is None:
        return None
    hidden = HIDDEN(HIDDEN_BY, label=near.label)
    inside, before, after = (
        study.table(one, of=of).columns for one, of in ((INSIDE, SCORES), (near, SCORES), (hidden, HIDING))
    )
    found, still_found = (study.table(one, of=P_VALUES).columns for one in (near, hidden))
    count = HIDING.count(study.setup, hidden)
    rows = {
        name: {
            judge: {
                "auroc_before": auroc(inside[judge], before[judge][:, :count], paired=False).value,
                "auroc": auroc(inside[judge], after[f"{name}/{judge}"], paired=False).value,
                "found_before": _alarms(found[judge][:, :count]),
                "found": _alarms(still_found[f"{name}/{judge}"]),
            }
            for judge in HIDDEN_FROM
        }
        for name in HIDDEN_FROM
    }
    return {"set": near.label, "epsilon": study.setup.protocol.size(hidden), "images": count, "rows": rows}


def flags(study: Study) -> list[str]:
    """Signs that an attack that hides images may be unreliable."""
    near = _near(study.setup)
    if near is None or study.setup.training is None:
        return []
    hidden = HIDDEN(HIDDEN_BY, label=near.label)
    columns = study.table(hidden, of=HIDING).columns
    title = study.setup.protocol.full_name(hidden)
    return [
        f"{title}, from {name}: {line}"
        for name in HIDDEN_FROM
        for line in flag_warnings(torch.from_numpy(columns[f"{name}/flags"]).flatten())
    ]


def _histogram(name: str, row: dict[str, dict[str, float]], tables: Mapping[str, Columns]) -> dict[str, Any]:
    """Shares of images in bins of a score: inside, and the sets that it detects best and worst."""
    finite = [label for label in row if np.isfinite(row[label]["auroc"])] or [*row]
    best, worst = (choose(finite, key=lambda label: row[label]["auroc"]) for choose in (max, min))
    labels = dict.fromkeys((INSIDE.kind.name, best, worst))
    values = {label: tables[label][name][0].astype(np.float64) for label in labels}
    # From where the images lie that are hard to detect, with room on both sides; the last bins hold what lies beyond.
    hard = np.concatenate([values[INSIDE.kind.name], values[worst]])
    low, high = np.quantile(hard[np.isfinite(hard)], [0.005, 0.995]) if np.isfinite(hard).any() else (0.0, 1.0)
    room = (high - low) / 4 or 1
    edges = np.linspace(low - room, high + room, BINS + 1)
    shares = {}
    for label, value in values.items():
        counts = np.histogram(value[~np.isnan(value)].clip(edges[0], edges[-1]), edges)[0]
        shares[label] = (counts / max(1, counts.sum())).tolist()
    return {"best": best, "worst": worst, "edges": edges.tolist(), "shares": shares}


def _latent_groups(setup: Setup) -> dict[str, Any]:
    """Images of the map: test images, sets, and attacked test images; as inputs."""
    groups: dict[str, Any] = {INSIDE.kind.name: setup.sets.shard(INSIDE, 0, POINTS)}
    groups |= {condition.label: setup.sets.shard(condition, 0, POINTS) for condition in setup.sets.conditions}
    rows = setup.shards(setup.count(LBFGS))[0]
    return groups | {setup.protocol.name(attack): setup.attack(attack, 0, rows) for attack in ATTACKS}


def _means(setup: Setup) -> Task:
    """Posterior means of each group, and of the images whose principal components the map shows, by the first run."""
    whole = setup.test if setup.train_or_none is None else setup.train_or_none
    groups = _latent_groups(setup)
    fitted_on = Given({"pixels": whole.pixels[in_random_order("latent-map", len(whole))[:FITTED_ON]]})
    arguments = {"names": list(groups), "most": POINTS, "device": str(setup.device)}
    inputs = {"groups": tuple(groups.values()), "fitted_on": fitted_on, "vae": setup.model("vae", 0)}
    return Task(encode_groups, arguments, inputs, "detection", "map of the latent space")


def encode_groups(
    names: list[str], most: int, device: str, groups: tuple[Tensors, ...], fitted_on: Tensors, vae: Autoencoder
) -> Tensors:
    """Posterior means of each group's images, (n, latent), those where the attack succeeded; a task.

    The components' images are under an empty name.
    """
    means = {}
    with torch.no_grad():
        for name, group in zip(("", *names), (fitted_on, *groups), strict=True):
            pixels = group["images"][:most][group["success"][:most]] if "images" in group else group["pixels"]
            if len(pixels):
                means[name] = posterior(vae, pixels.to(device))[0].cpu()
    return means


def _latent_map(study: Study) -> dict[str, Any]:
    """Posterior means in the plane of the first two principal components; the first run.

    The components are those of random training images or, where finished models came without any, of the test images.
    Sets of which nothing is left are not in it. A latent space of one dimension is shown along one axis.
    """
    setup = study.setup
    means = {name: value.double().numpy() for name, value in study.plan.results([_means(setup)])[0].items()}
    centre, axes, explained = _principal_components(means.pop(""))
    points = {name: (means[name] - centre) @ axes.T for name in _latent_groups(setup) if name in means}
    missing = 2 - len(axes)
    attacked = [setup.protocol.name(attack) for attack in ATTACKS]
    return {
        "seed": setup.seeds[0],
        "of": "test" if setup.train_or_none is None else "training",
        "explained": [*explained.tolist(), *[0.0] * missing],
        "attacked": [name for name in attacked if name in points],
        "points": {name: np.round(np.pad(at, ((0, 0), (0, missing))), 3).tolist() for name, at in points.items()},
    }


def _principal_components(values: Values) -> tuple[Values, Values, Values]:
    """Mean, the first two components (at most) as rows, and the share of variance that each explains."""
    centre = values.mean(axis=0)
    # Of the products, which are few, and not of the values, which may be thousands of latents.
    size, vectors = np.linalg.eigh((values - centre).T @ (values - centre))
    size, axes = size[::-1].clip(min=0), vectors.T[::-1]
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    axes = axes * np.sign(largest)[:, None]  # the sign of a component means nothing: its largest part is positive
    share = size / size.sum()
    return centre, axes[:2], share[:2]


def _extremes(study: Study, condition: Condition, columns: Columns) -> dict[str, Any]:
    """Images of a set with the least and the most anomalous scores of the first run, each from the end inwards."""
    images, indices = study.setup.sets.images(condition)
    ends_of: dict[str, Any] = {}
    for score in (name for name in (PIXELS, LATENTS) if name in columns):
        order = columns[score][0].argsort(kind="stable")
        ends = {"least": order[:ENDS], "most": order[: -ENDS - 1 : -1]}
        ends_of[score] = {
            end: {
                "index": indices[places.copy()].tolist(),
                "score": columns[score][0][places].tolist(),
                "pixels": pack(images.pixels[places.copy()].numpy()),
            }
            for end, places in ends.items()
        }
    return ends_of
