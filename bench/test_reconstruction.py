"""Ten reconstructions of each image: K forward passes of the VAE, as its users write them, against `reconstruct`.

Both give (images, 10, 1, h, w) on the same weights; the last rows reduce to the labels, which is what detectors need.
`images_per_second` in `extra_info` counts input images, all their draws included.
"""

import copy
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from claims.study import Study
from vaecore import VAE, Classifier, reconstruct, reconstruct_labels

DRAWS, IMAGES = 10, 1_000
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")),
]
Setup = tuple[VAE, Classifier, Tensor]


@pytest.fixture
def setup(study: Study, device: str) -> Setup:
    """The first run's models and test images on a device."""
    run = study.run(0)
    assert isinstance(run.vae, VAE)
    assert isinstance(run.classifier, Classifier)
    repeats = -(-IMAGES // len(study.test))
    images = study.test.pixels.repeat(repeats, 1, 1, 1)[:IMAGES]
    models = copy.deepcopy((run.vae, run.classifier))  # the study's own stay where they are
    return models[0].to(device), models[1].to(device), images.to(device)


def naive(vae: VAE, images: Tensor) -> Tensor:
    """K independent forward passes: each encodes anew, draws from the global generator, and decodes."""
    passes = []
    with torch.no_grad():
        for _ in range(DRAWS):
            mean, log_variance = vae.encode(images)
            latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            passes.append(vae.decode(latents))
    return torch.stack(passes, dim=1)


def naive_labels(vae: VAE, classifier: Classifier, images: Tensor) -> Tensor:
    """Labels of `naive` reconstructions, a pass at a time."""
    with torch.no_grad():
        return torch.stack([classifier(naive_pass).argmax(dim=1) for naive_pass in naive(vae, images).unbind(1)], dim=1)


def measure(benchmark: BenchmarkFixture, device: str, function: Callable[[], Tensor]) -> Tensor:
    """Time a function, with the GPU's queue emptied, and note images per second."""

    def synchronised() -> Tensor:
        result = function()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    result: Tensor = benchmark.pedantic(synchronised, rounds=10, warmup_rounds=2)  # type: ignore[no-untyped-call]
    if benchmark.stats is not None:  # None with --benchmark-disable
        benchmark.extra_info["images_per_second"] = round(IMAGES / benchmark.stats.stats.median)
    return result


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["naive", "reconstruct"])
def test_reconstructions(benchmark: BenchmarkFixture, setup: Setup, device: str, way: str) -> None:
    """All pixels of all draws."""
    vae, _, images = setup
    benchmark.group = f"{DRAWS} reconstructions of {IMAGES} images, {device}"
    ways = {"naive": lambda: naive(vae, images), "reconstruct": lambda: reconstruct(vae, images, draws=DRAWS, seed=0)}
    found = measure(benchmark, device, ways[way])
    assert found.shape == (IMAGES, DRAWS, *images.shape[1:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", ["naive", "reconstruct"])
def test_labels(benchmark: BenchmarkFixture, setup: Setup, device: str, way: str) -> None:
    """The label of each draw."""
    vae, classifier, images = setup
    benchmark.group = f"labels of {DRAWS} reconstructions of {IMAGES} images, {device}"
    ways = {
        "naive": lambda: naive_labels(vae, classifier, images),
        "reconstruct": lambda: reconstruct_labels(vae, classifier, images, draws=DRAWS, seed=0),
    }
    found = measure(benchmark, device, ways[way])
    assert found.shape == (IMAGES, DRAWS)
