"""vaecore's attacks beside those of other libraries: the same classifier, images, aims and budgets.

L-BFGS, DDN, FMN, ALMA, PDGD and CW look for the nearest image that is taken for the target, or not for the label, and
their quality is the L2 norm; the others look for any error within a budget, and their quality is success. Each
library's own call is timed, with what it brings: of the peers, only foolbox says what succeeded. Success is measured
afterwards, for all alike, by asking the classifier again.
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
ASKED = f"{TORCHATTACKS}, then asked"  # which images fool the classifier, as the others' calls say
ADAPTIVE = f"{OURS}, adaptive steps"
SCIPY = "scipy, one by one"
LBFGS = "L-BFGS, targeted"
NEAREST = 200  # images for the attacks that look for the smallest change
IMAGES = 250  # for the other attacks: few enough that vaecore too works on all at once
STEPS, QUERIES = 40, 500
BUDGETS: dict[Norm, float] = {"linf": 0.1, "l2": 1.5}  # at which some images hold out and some fall


def vaecore_lbfgs(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, targeted: bool = True, evaluations: int = 28
) -> Tensor:
    """As users call it."""
    return lbfgs(classifier, images, classes, targeted=targeted, evaluations=evaluations).images


EFFORTS = {OURS: 28} | {f"{OURS}, {effort}": effort for effort in (80, 164, 300, 640)}  # gradients; 28 by default
OUR_EFFORTS = {way: partial(vaecore_lbfgs, evaluations=effort) for way, effort in EFFORTS.items()}
PEERS_OF_NEAREST = (
    *(
        (peers.adv_lib_nearest, "adv_lib", name, steps)
        for name in ("ddn", "fmn", "alma", "pdgd")
        for steps in (100, 1000)
    ),
    *((peers.foolbox_nearest, "foolbox", name, 100) for name in ("ddn", "fmn")),
    (peers.torchattacks_nearest, "torchattacks", "cw", 100),
)
# Ways to look for the smallest change: the line of the figure that each is a point of, its steps, and the attack.
WAYS_TO_NEAREST = {way: (OURS, EFFORTS[way], attack) for way, attack in OUR_EFFORTS.items()}
WAYS_TO_NEAREST |= {
    f"{library}, {name.upper()} {steps}": (
        f"{library}, {name.upper()}",
        steps,
        partial(attack, attack=name, steps=steps),
    )
    for attack, library, name, steps in PEERS_OF_NEAREST
}
LONG = 300  # steps, from which on the first call costs little beside them, and rows are measured with --long
ALMA = [way for way, (line, *_) in WAYS_TO_NEAREST.items() if line == "adv_lib, ALMA"]


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


def scipy_one_by_one(classifier: nn.Module, images: Tensor, targets: Tensor, *, progress: Progress) -> Tensor:
    """scipy's L-BFGS-B."""
    found = []
    for image, target in zip(torch.split(images, 1), torch.split(targets, 1), strict=True):
        found.append(scipy_lbfgs(classifier, image, target).images)
        progress(len(found), len(images))
    return torch.cat(found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", [OURS])
def test_lbfgs(benchmark: BenchmarkFixture, victims: Victims, way: str) -> None:
    """vaecore's, on all images at once."""
    l2 = measure_attack(benchmark, OUR_EFFORTS[way], victims, targeted=True, task=LBFGS, way=way)
    assert bool(l2.isfinite().any())


@pytest.mark.long
@pytest.mark.parametrize("device", ["cpu"])  # where scipy's L-BFGS-B computes
@pytest.mark.parametrize("way", [SCIPY])
def test_lbfgs_of_scipy(benchmark: BenchmarkFixture, study: Study, victims: Victims, way: str) -> None:
    """In `extra_info` also each of vaecore's L2 norms over scipy's, image by image: median and 95% quantile."""
    victims = victims.first(60)  # it takes a second each
    with study.plan.meter(f"L-BFGS of {way}") as advance:

        def progress(done: int, of: int) -> None:
            advance(Work(done, of, "", None))

        attack = partial(scipy_one_by_one, progress=progress)
        l2 = measure_attack(benchmark, attack, victims, targeted=True, task=LBFGS, way=way, rounds=1, warmup_rounds=0)
    ratios = {}
    for name in list(OUR_EFFORTS)[:3]:
        found = OUR_EFFORTS[name](victims.classifier, victims.images, victims.targets)
        ratios[name] = l2_ratio(ours=victims.norms(found, targeted=True), theirs=l2)
    benchmark.extra_info["l2_ratio"] = ratios
    assert bool(l2.isfinite().any())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("targeted", [True, False], ids=["targeted", "untargeted"])
@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=[pytest.mark.long] * (steps >= LONG)) for way, (_, steps, _) in WAYS_TO_NEAREST.items()],
)
def test_nearest(benchmark: BenchmarkFixture, victims: Victims, *, targeted: bool, way: str) -> None:
    """Smallest L2 change, for each effort. In `extra_info` also the norms and the line of the figure."""
    if targeted and way in ALMA and victims.classifier(victims.images[:1]).shape[1] < 4:
        pytest.skip("ALMA's targeted loss takes four classes or more")
    line, steps, attack = WAYS_TO_NEAREST[way]
    task = f"smallest L2, {'targeted' if targeted else 'untargeted'}"
    l2 = measure_attack(
        benchmark,
        partial(attack, targeted=targeted),
        victims.first(NEAREST),
        targeted=targeted,
        task=task,
        way=way,
        rounds=1,  # of seconds; runs are repeated
        warmup_rounds=int(steps < LONG),
    )
    benchmark.extra_info["line"] = line
    benchmark.extra_info["l2"] = [round(norm, 5) if norm == norm else None for norm in l2.tolist()]  # noqa: PLR0124  # NaN
    assert bool(l2.isfinite().any())


def asked(classifier: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float) -> Tensor:
    """torchattacks' FGSM, and then the success of each image, as vaecore and foolbox tell it."""
    adversarial = peers.torchattacks_fgsm(classifier, images, labels, epsilon=epsilon)
    with torch.no_grad():
        classifier(adversarial).argmax(dim=1).ne(labels)
    return adversarial


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("norm", "way"),
    [("linf", OURS), ("linf", FOOLBOX), ("linf", TORCHATTACKS), ("linf", ASKED), ("l2", OURS), ("l2", FOOLBOX)],
)
def test_fgsm(benchmark: BenchmarkFixture, victims: Victims, norm: Norm, way: str) -> None:
    """One step; torchattacks has none in L2."""
    epsilon = BUDGETS[norm]
    ways: dict[str, Attack] = {
        OURS: lambda *given: fgsm(*given, epsilon=epsilon, norm=norm).images,
        FOOLBOX: partial(peers.foolbox_fgsm, epsilon=epsilon, norm=norm),
        TORCHATTACKS: partial(peers.torchattacks_fgsm, epsilon=epsilon),
        ASKED: partial(asked, epsilon=epsilon),
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
