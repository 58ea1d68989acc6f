"""Preconditions: what must hold of models, attacks and sets outside before claims about them mean something."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore import Autoencoder, Images, reconstruct_labels
from vaecore.suite.facts import Precondition
from vaecore.suite.study.conditions import AWAY, FGSM, HIDDEN, HIDDEN_BY, HOME, SIZES, Condition
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Tensors, answers, seed_for

SMALLEST, LARGEST = FGSM(min(SIZES)), FGSM(max(SIZES))
ABOVE_CHANCE = 0.25  # of the way from chance to no mistake, that a classifier must have gone
KEPT = 0.5  # of the labels of clean images, that a reconstruction must keep
MOVED = 0.05  # of the labels that are right, that the smallest attack must leave, and the largest change
MISTAKES = 10  # over all runs: of fewer misclassified images, a mean says nothing
OTHERS = 0.99  # of the images of a set outside, that must not be among the test images


def look_tasks(setup: Setup) -> list[Task]:
    """What models are looked at by, run by run, on as many images as L-BFGS takes."""
    return [_look(setup, number, {}) for number in range(len(setup.seeds))]


def attack_tasks(setup: Setup) -> list[Task]:
    """The same with what the smallest and the largest attack make of the images."""
    rows = _looked_at(setup)
    return [
        _look(setup, number, {name: setup.attack(attack, number, rows) for name, attack in _ATTACKS.items()})
        for number in range(len(setup.seeds))
    ]


_ATTACKS = {"smallest": SMALLEST, "largest": LARGEST}


def _looked_at(setup: Setup) -> tuple[int, int]:
    return 0, min(setup.protocol.profile.lbfgs_images, len(setup.test))


def _look(setup: Setup, number: int, attacks: Mapping[str, Task]) -> Task:
    models = {kind: setup.model(kind, number) for kind in ("vae", "classifier")}
    arguments = {"seed": setup.seeds[number], "device": str(setup.device)}
    inputs = {"shard": setup.shard(_looked_at(setup)), "smallest": None, "largest": None, **attacks, **models}
    return Task(look_first, arguments, inputs, "preconditions", "preconditions")


def look_first(
    seed: int,
    device: str,
    shard: Tensors,
    smallest: Tensors | None,
    largest: Tensors | None,
    vae: Autoencoder,
    classifier: Classify,
) -> Tensors:
    """Labels (n,) of images beside the true ones: of one reconstruction of each, or of what attacks made of it; a task.

    seed: of the run.
    """
    images = {"clean": shard["pixels"]}
    images |= {name: of["images"] for name, of in (("smallest", smallest), ("largest", largest)) if of is not None}
    with torch.no_grad():
        labels = {name: answers(classifier, some.to(device)).argmax(dim=1).cpu() for name, some in images.items()}
    if smallest is None:
        seed, indices = seed_for("preconditions", seed), shard["indices"].to(device)
        drawn = reconstruct_labels(vae, classifier, shard["pixels"].to(device), draws=1, seed=seed, indices=indices)
        labels["drawn"] = drawn[:, 0].cpu()
    return {"true": shard["labels"], **labels}


def of_models(setup: Setup, looked: Sequence[Tensors], right: NDArray[np.bool_]) -> list[Precondition]:
    """Preconditions of the models, each by its worst run.

    looked: results of `look_tasks`. right: whether each run's classifier labels an image right, (runs, images).
    """
    labels = setup.test.labels
    assert labels is not None
    chance = float(torch.bincount(labels).max()) / len(labels)
    return [
        Precondition(
            "classifier near chance",
            "accuracy of the classifier",
            float(right.mean(axis=1).min()),
            chance + ABOVE_CHANCE * (1 - chance),
            frozenset("ABDE"),
        ),
        Precondition(
            "reconstructions lose the label",
            "share of clean images whose label a reconstruction keeps",
            min(_share(run["drawn"] == run["clean"]) for run in looked),
            KEPT,
            frozenset("ADE"),
        ),
        Precondition(
            "few mistakes",
            "images misclassified, over all runs",
            float((~right).sum()),
            MISTAKES,
            frozenset("BE"),
        ),
    ]


def attacks_among(setup: Setup, names: Collection[str] | None) -> frozenset[str]:
    """The full names of conditions that are attacks on the classifier; names: of those that are meant; None: all."""
    every = [condition for condition in setup.conditions if "classifier" in condition.kind.knows]
    known = {setup.protocol.full_name(condition) for condition in every}
    return frozenset(known if names is None else known & set(names))


def of_attacks(setup: Setup, looked: Sequence[Tensors], undermines: frozenset[str]) -> list[Precondition]:
    """Preconditions of the attacks, each by its worst run; looked: results of `attack_tasks`."""
    sure = [(run, run["clean"] == run["true"]) for run in looked]
    size = setup.protocol.shown_size
    return [
        Precondition(
            "attack saturated",
            f"share of the right labels that FGSM of {size(SMALLEST)} leaves",
            min(_share((run["smallest"] == run["true"])[among]) for run, among in sure),
            MOVED,
            undermines,
        ),
        Precondition(
            "attack powerless",
            f"share of the right labels that FGSM of {size(LARGEST)} changes",
            min(_share((run["largest"] != run["true"])[among]) for run, among in sure),
            MOVED,
            undermines,
        ),
    ]


def _share(of: Tensor) -> float:
    return float(of.double().mean()) if len(of) else 0.0


def sets_among(setup: Setup, names: Collection[str] | None) -> list[Condition]:
    """The sets outside that conditions look at; names: full names of these; None: all."""
    every = setup.sets.conditions
    if names is None:
        return every
    return [one for one in every if {setup.protocol.full_name(looks) for looks in _of_set(one)} & set(names)]


def in_bytes(images: Images) -> set[bytes]:
    """The images, each in 256 levels."""
    return set(_rows(images))


def share_of_others(setup: Setup, condition: Condition, inside: Collection[bytes]) -> float:
    """The share of a set's images that are not among those inside, which are as `in_bytes` gives them."""
    found = _rows(setup.sets.images(condition)[0])
    return sum(image not in inside for image in found) / len(found)


def of_sets(setup: Setup, shares: Mapping[Condition, float]) -> list[Precondition]:
    """That sets outside are not the test set again; shares: as `share_of_others` gives them, by set."""
    if not shares:
        return []
    same = (looks for one, share in shares.items() if share < OTHERS for looks in _of_set(one))
    text = "share of the images of a set outside that are no test images"
    undermines = frozenset(map(setup.protocol.full_name, same))
    return [Precondition("set outside is inside", text, min(shares.values()), OTHERS, undermines)]


def _of_set(condition: Condition) -> list[Condition]:
    """The conditions that look at a set outside."""
    label = condition.label
    return [condition, HIDDEN(HIDDEN_BY, label=label), HOME(label=label), AWAY(label=label)]


def _rows(images: Images) -> list[bytes]:
    return [row.tobytes() for row in images.pixels.mul(255).round().to(torch.uint8).numpy()]
