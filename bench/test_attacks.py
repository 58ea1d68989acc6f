"""The L-BFGS attack on all images at once, against scipy's L-BFGS-B image by image with the same objective and search.

Quality stands beside speed in `extra_info`: median L2 norm and success, on the same images and targets.
"""

import copy

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.reference import scipy_lbfgs
from claims.evidence import random_targets
from claims.study import Study
from vaecore import lbfgs

IMAGES = {"vaecore": 1000, "scipy": 60}  # scipy takes a second an image


@pytest.mark.parametrize("way", ["vaecore", "scipy"])
def test_lbfgs(benchmark: BenchmarkFixture, study: Study, way: str) -> None:
    """Seconds an image: divide by `images`."""
    index = study.indices[: IMAGES[way]]
    assert study.test.labels is not None
    device = study.device if way == "vaecore" else torch.device("cpu")
    classifier = study.run(0).classifier
    assert isinstance(classifier, torch.nn.Module)
    classifier = copy.deepcopy(classifier).to(device)
    labels = study.test.labels[index]
    targets = random_targets(labels, index, classes=study.test.classes or 0, seed=0).to(device)
    images = study.test.pixels[index].to(device)
    attack = {"vaecore": lbfgs, "scipy": scipy_lbfgs}[way]
    benchmark.group = "L-BFGS attack"
    rounds = 3 if way == "vaecore" else 1
    found = benchmark.pedantic(attack, (classifier, images, targets), rounds=rounds)  # type: ignore[no-untyped-call]
    l2 = found.l2[found.success]
    benchmark.extra_info |= {
        "images": len(images),
        "median_l2": round(float(l2.median()), 3),
        "success": float(found.success.float().mean()),
        "median_evaluations": int(found.evaluations.median()),
        "threads": torch.get_num_threads(),
    }
    if way == "scipy":
        ratio = lbfgs(classifier, images, targets).l2 / found.l2
        benchmark.extra_info["vaecore_l2_over_scipy_median_and_95"] = [
            round(float(ratio.nanquantile(level)), 3) for level in (0.5, 0.95)
        ]
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["milliseconds_per_image"] = round(1e3 * benchmark.stats.stats.median / len(images), 1)
    assert bool(found.success.any())
