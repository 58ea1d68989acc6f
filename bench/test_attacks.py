"""vaecore's attacks beside those of other libraries: the same classifier, images, aims and budgets.

L-BFGS looks for the nearest image that is taken for the target, so its quality is the L2 norm; the others look for any
error within a budget, and their quality is success. Each library's own call is timed, with what it brings: of the
peers, only foolbox says what succeeded. Success is measured afterwards, for all alike, by asking the classifier again.
"""

from functools import partial
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench import peers
from bench.measure import DEVICES, Attack, Victims, l2_ratio, measure_attack
from bench.reference import scipy_lbfgs
from bench.table import OURS
from vaecore import fgsm, lbfgs, pgd, square
from vaecore.suite import Study
from vaecore.suite.study.perturbations import random_targets
from vaecore.suite.study.plan import Work
from vaecore.toolkit import Norm, Progress

FOOLBOX, TORCHATTACKS = "foolbox", "torchattacks"
THOROUGH, ADAPTIVE = f"{OURS}, thorough", f"{OURS}, adaptive steps"
SCIPY = "scipy, one by one"
ADVERTORCH = {f"advertorch, {batch} as one": batch for batch in (50, 200)}
PEERS_OF_LBFGS = {SCIPY: 60, **dict.fromkeys(ADVERTORCH, 200)}  # images; scipy takes a second each
LBFGS = "L-BFGS, targeted"
IMAGES = 250  # for the other attacks: few enough that vaecore too works on all at once
STEPS, QUERIES = 40, 500
BUDGETS: dict[Norm, float] = {"linf": 0.1, "l2": 1.5}  # at which some images hold out and some fall


@pytest.fixture
def victims(study: Study, device: str) -> Victims:
    """The first run's classifier and 500 images of the study on a device; targets are random."""
    index = study.setup.indices[:500]
    classifier = study.run(0).classifier
    assert isinstance(classifier, nn.Module)
    assert study.setup.test.labels is not None
    labels = study.setup.test.labels[index]
    targets = random_targets(labels, index, classes=study.setup.test.classes or 0, seed=0)
    return Victims(classifier, study.setup.test.pixels[index], labels, targets).to(device)


@pytest.fixture(autouse=True)
def _peer(way: str) -> None:
    """Skip, saying why, where the way is a peer's and the peer is not here."""
    library = way.partition(",")[0]
    if library in peers.LIBRARIES:
        try:
            peers.load(library)
        except ImportError as error:
            pytest.skip(str(error))


def vaecore_lbfgs(classifier: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """As users call it."""
    return lbfgs(classifier, images, targets).images


def vaecore_lbfgs_thorough(classifier: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Nearer images, for more gradients."""
    return lbfgs(classifier, images, targets, thorough=True).images


OUR_LBFGS: dict[str, Attack] = {OURS: vaecore_lbfgs, THOROUGH: vaecore_lbfgs_thorough}


def scipy_one_by_one(classifier: nn.Module, images: Tensor, targets: Tensor, *, progress: Progress) -> Tensor:
    """scipy's L-BFGS-B."""
    found = []
    for image, target in zip(torch.split(images, 1), torch.split(targets, 1), strict=True):
        found.append(scipy_lbfgs(classifier, image, target).images)
        progress(len(found), len(images))
    return torch.cat(found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", OUR_LBFGS)
def test_lbfgs(benchmark: BenchmarkFixture, victims: Victims, way: str) -> None:
    """vaecore's, on all images at once."""
    l2 = measure_attack(benchmark, OUR_LBFGS[way], victims, targeted=True, task=LBFGS, way=way)
    assert bool(l2.isfinite().any())


@pytest.mark.parametrize("device", ["cpu"])  # where scipy's L-BFGS-B computes, also when advertorch calls it
@pytest.mark.parametrize("way", PEERS_OF_LBFGS)
def test_lbfgs_of_peers(benchmark: BenchmarkFixture, study: Study, victims: Victims, way: str) -> None:
    """In `extra_info` also each of vaecore's L2 norms over the peer's, image by image: median and 95% quantile."""
    victims = victims.first(PEERS_OF_LBFGS[way])
    with study.plan.meter(f"L-BFGS of {way}") as advance:

        def progress(done: int, of: int) -> None:
            advance(Work(done, of, "", None))

        attack: Attack = (
            partial(scipy_one_by_one, progress=progress)
            if way == SCIPY
            else partial(peers.advertorch_lbfgs, batch=ADVERTORCH[way], progress=progress)
        )
        l2 = measure_attack(benchmark, attack, victims, targeted=True, task=LBFGS, way=way, rounds=1, warmup_rounds=0)
    ratios = {}
    for name, our_attack in OUR_LBFGS.items():
        found = our_attack(victims.classifier, victims.images, victims.targets)
        ratios[name] = l2_ratio(ours=victims.norms(found, targeted=True), theirs=l2)
    benchmark.extra_info["l2_ratio"] = ratios
    assert bool(l2.isfinite().any())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("norm", "way"),
    [("linf", OURS), ("linf", FOOLBOX), ("linf", TORCHATTACKS), ("l2", OURS), ("l2", FOOLBOX)],
)
def test_fgsm(benchmark: BenchmarkFixture, victims: Victims, norm: Norm, way: str) -> None:
    """One step; torchattacks has none in L2."""
    epsilon = BUDGETS[norm]
    ways: dict[str, Attack] = {
        OURS: lambda *given: fgsm(*given, epsilon=epsilon, norm=norm).images,
        FOOLBOX: partial(peers.foolbox_fgsm, epsilon=epsilon, norm=norm),
        TORCHATTACKS: partial(peers.torchattacks_fgsm, epsilon=epsilon),
    }
    task = f"FGSM, {norm.capitalize()} {epsilon}"
    measure_attack(benchmark, ways[way], victims.first(IMAGES), targeted=False, task=task, way=way, rounds=10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("way", [OURS, ADAPTIVE, FOOLBOX, TORCHATTACKS])
def test_pgd(benchmark: BenchmarkFixture, victims: Victims, norm: Norm, way: str) -> None:
    """Once from a random start; steps of one size for all (Madry et al. 2018: 2.5 epsilon over their number)."""
    epsilon = BUDGETS[norm]
    step_size = 2.5 * epsilon / STEPS
    setting: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "steps": STEPS, "step_size": step_size}
    ways: dict[str, Attack] = {
        OURS: lambda *given: pgd(*given, epsilon=epsilon, norm=norm, steps=STEPS, step_size=step_size, seed=0).images,
        ADAPTIVE: lambda *given: pgd(*given, epsilon=epsilon, norm=norm, steps=STEPS, seed=0).images,
        FOOLBOX: partial(peers.foolbox_pgd, **setting),
        TORCHATTACKS: partial(peers.torchattacks_pgd, **setting),
    }
    task = f"PGD, {STEPS} steps, {norm.capitalize()} {epsilon}"
    measure_attack(benchmark, ways[way], victims.first(IMAGES), targeted=False, task=task, way=way)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", [OURS, TORCHATTACKS])
def test_square(benchmark: BenchmarkFixture, victims: Victims, way: str) -> None:
    """Random search; foolbox has none."""
    epsilon = BUDGETS["linf"]
    ways: dict[str, Attack] = {
        OURS: lambda *given: square(*given, epsilon=epsilon, queries=QUERIES, seed=0).images,
        TORCHATTACKS: partial(peers.torchattacks_square, epsilon=epsilon, queries=QUERIES),
    }
    task = f"Square, {QUERIES} queries, Linf {epsilon}"
    measure_attack(benchmark, ways[way], victims.first(IMAGES), targeted=False, task=task, way=way)
