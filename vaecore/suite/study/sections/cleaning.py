"""Family D: accuracy behind each purifier, under attackers that know it and ones that do not, and a strip of images."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore import Purified
from vaecore.suite.images import pack
from vaecore.suite.statistics.estimates import beats, mean
from vaecore.suite.statistics.intervals import interval
from vaecore.suite.study.cleaning import (
    ATTACKED,
    CLEANED,
    CLEANING,
    CURVE,
    KNOWING,
    NONE,
    SEARCHED,
    curve_tasks,
    in_all_runs,
    names,
    purified_models,
)
from vaecore.suite.study.conditions import CLEAN, FGSM, LBFGS, PGD, SMOOTHED
from vaecore.suite.study.plain import BITS, SEARCH, THRESHOLD
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.smoothing import CERTIFICATES, RADII, SIGMAS
from vaecore.suite.study.study import Study
from vaecore.suite.study.tables import stack
from vaecore.suite.study.tasks import Task
from vaecore.suite.text import counted, intensity
from vaecore.toolkit import Classify, Tensors, ask

LEVEL = 0.95  # of intervals that describe and decide nothing
STRIP = (CLEAN, FGSM(1), PGD(1), LBFGS)  # what the strip of images shows
_IN_STRIP = 10  # classes: more do not fit a page


def tasks(study: Study) -> list[Task]:
    """All that the section shows; attacks through the purifiers are on the first run."""
    setup = study.setup
    tables = [task for condition in CLEANED for task in CLEANING.tasks(setup, condition)]
    attacked = [task for condition in in_all_runs(setup) for task in ATTACKED.tasks(setup, condition)]
    certified = [task for sigma in SIGMAS for task in CERTIFICATES.tasks(setup, SMOOTHED(sigma))]
    return [*curve_tasks(setup).values(), *attacked, *certified, *tables, *_strip_tasks(setup)]


def section(study: Study) -> dict[str, Any]:
    """The section's content."""
    protocol, every = study.setup.protocol, names(study.setup)
    tables = {protocol.name(condition): study.table(condition, of=CLEANING).columns for condition in CLEANED}
    attacked = _curves(study)
    curves = {}
    for name in every:
        rows = []
        for size in CURVE:
            right = attacked[name, size]
            measured = {key: right[key] for key in (NONE, *KNOWING) if key in right}
            measured["worst"] = np.logical_and.reduce([right[key] for key in KNOWING if key in right])
            row: dict[str, Any] = {"epsilon": protocol.budgets(size), "images": right[NONE].shape[1]}
            rows.append(row | {key: _accuracy(values) for key, values in measured.items()})
        curves[name] = rows
    return {
        "images": {name: columns[NONE].shape[1] for name, columns in tables.items()},
        "search": SEARCH,
        "searched": min(SEARCHED, study.setup.count(CLEAN)),
        "accuracy": {
            name: {purifier: _accuracy(columns[purifier]) for purifier in (NONE, *every)}
            for name, columns in tables.items()
        },
        "attacked": curves,
        "certified": _certified(study),
        "strip": _strip(study),
    }


def flags(study: Study) -> list[str]:
    """Where an attack on a purifier wins fewer images than one that knows less, beyond chance, in words.

    On all runs where claims take the attack, on more images of the first run elsewhere.
    """
    lines, protocol = [], study.setup.protocol
    attacked: dict[tuple[str, float], list[Any]] = {key: [right] for key, right in _curves(study).items()}
    for condition in in_all_runs(study.setup):
        all_runs = study.table(condition, of=ATTACKED).columns
        attacked.setdefault((condition.label, condition.size or 0.0), []).append(all_runs)
    for (name, size), looks in attacked.items():
        for key, what in (("ignoring", "PGD that does not know it"), ("queried", "Square")):
            # One that knows more has all that its best attack wins: rounding has two.
            for right in looks:
                if key not in right:
                    continue
                knowing = ~np.logical_and.reduce([right[one] for one in ("through", "flipped") if one in right])
                if beats(~right[key].ravel(), knowing.ravel()):
                    shares = f"{knowing.mean():.0%}", f"{1 - right[key].mean():.0%}"
                    lines.append(
                        f"PGD {intensity(protocol.budgets(size))} through {name} wins {shares[0]}, {what} {shares[1]}"
                        f" ({counted(right[key].size, 'image', 'd')}): an attack that knows less must not be better"
                        " (are gradients masked?)"
                    )
    return lines


def _certified(study: Study) -> dict[str, Any]:
    """Certified accuracy, all runs: by the smoothing's condition, with and without the VAE, at each radius."""
    protocol, shown = study.setup.protocol, dict[str, Any]()
    for condition in map(SMOOTHED, SIGMAS):
        columns = study.table(condition, of=CERTIFICATES).columns
        shown[protocol.name(condition)] = {
            name: [{"radius": radius} | _accuracy(column >= radius) for radius in RADII]
            for name, column in columns.items()
        }
    return {"images": CERTIFICATES.count(study.setup, SMOOTHED(SIGMAS[0])), "accuracy": shown}


def _curves(study: Study) -> dict[tuple[str, float], Any]:
    curves = curve_tasks(study.setup)
    results = study.plan.results([*curves.values()], "attacks through the purifiers")
    return {key: stack([result]) for key, result in zip(curves, results, strict=True)}


def _accuracy(right: NDArray[np.bool_]) -> dict[str, float]:
    accuracy = interval(mean(right.astype(float), limits=(0, 1)), LEVEL)
    return {"accuracy": accuracy.estimate, "low": accuracy.low, "high": accuracy.high}


def _places(setup: Setup) -> list[int]:
    """Places of the strip's images: the first of each class."""
    assert setup.test.labels is not None
    labels = setup.test.labels[setup.indices[: setup.count(LBFGS)]].numpy()
    return [int((labels == label).nonzero()[0][0]) for label in np.unique(labels)[:_IN_STRIP]]


def _shown(setup: Setup) -> tuple[str, str]:
    """The purifiers that the strip shows."""
    return "vae-mean-softmax", THRESHOLD if setup.background else BITS


def _strip_tasks(setup: Setup) -> list[Task]:
    places = _places(setup)
    rows = (0, max(places) + 1)
    return [
        Task(
            clean_strip,
            {"places": places, "shown": list(_shown(setup)), "device": str(setup.device)},
            {
                "shard": setup.shard(rows),
                "attack": setup.attack(condition, 0, rows),
                "classifier": setup.model("classifier", 0),
                "models": purified_models(setup, 0, _shown(setup)),
            },
            "cleaning",
            "strip of cleaned images",
        )
        for condition in STRIP
    ]


def clean_strip(
    places: list[int],
    shown: list[str],
    device: str,
    shard: Tensors,
    attack: Tensors,
    classifier: Classify,
    models: dict[str, Purified],
) -> Tensors:
    """Some images as they are and cleaned: "<purifier>/images", "/label", "/confidence"; a task."""
    images, indices = attack["images"][places].to(device), shard["indices"][places].to(device)
    columns: Tensors = {}

    def add(name: str, pixels: Tensor, logits: Tensor) -> None:
        confidence, label = logits.double().softmax(dim=1).max(dim=1)
        columns.update({f"{name}/images": pixels.cpu(), f"{name}/label": label.cpu()})
        columns[f"{name}/confidence"] = confidence.cpu()

    with torch.no_grad():
        add(NONE, images, ask(classifier, images))
        for name in shown:
            views = models[name].purifier.views(images, indices, models[name].seed)
            add(name, views.mean(dim=1), models[name].of_views(views))
    return columns


def _strip(study: Study) -> dict[str, Any]:
    """A test image of each class, the first few, attacked and cleaned, with labels and confidence; the first run."""
    setup = study.setup
    results = study.plan.results(_strip_tasks(setup), "strip of cleaned images")
    rows = [
        {
            "condition": setup.protocol.name(condition),
            "purifier": "" if name == NONE else name,
            "pixels": pack(strip[f"{name}/images"].numpy()),
            "label": strip[f"{name}/label"].tolist(),
            "confidence": strip[f"{name}/confidence"].tolist(),
        }
        for condition, strip in zip(STRIP, results, strict=True)
        for name in (NONE, *_shown(setup))
    ]
    assert setup.test.labels is not None
    return {"labels": setup.test.labels[setup.indices[_places(setup)]].tolist(), "rows": rows}
