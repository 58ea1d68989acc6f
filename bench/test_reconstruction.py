"""Ten reconstructions of each image: K forward passes of the VAE, as its users write them, against `reconstruct`.

Both give (images, 10, 1, h, w) on the same weights; the last rows reduce to the labels, which is what detectors need.
Milliseconds are per input image, all its draws included.
"""

import copy

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.measure import DEVICES, measure
from claims.study import Study
from vaecore import VAE, Classifier, reconstruct, reconstruct_labels

DRAWS, IMAGES = 10, 1_000
WAYS = ["vaecore", f"{DRAWS} forward passes"]
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_reconstructions(benchmark: BenchmarkFixture, setup: Setup, device: str, way: str) -> None:
    """All pixels of all draws."""
    vae, _, images = setup
    ways = {WAYS[0]: lambda: reconstruct(vae, images, draws=DRAWS, seed=0), WAYS[1]: lambda: naive(vae, images)}
    task = f"{DRAWS} reconstructions, pixels"
    found = measure(benchmark, ways[way], task=task, way=way, images=IMAGES, device=device, rounds=10, warmup_rounds=2)
    assert found.shape == (IMAGES, DRAWS, *images.shape[1:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_labels(benchmark: BenchmarkFixture, setup: Setup, device: str, way: str) -> None:
    """The label of each draw."""
    vae, classifier, images = setup
    ways = {
        WAYS[0]: lambda: reconstruct_labels(vae, classifier, images, draws=DRAWS, seed=0),
        WAYS[1]: lambda: naive_labels(vae, classifier, images),
    }
    task = f"{DRAWS} reconstructions, labels"
    found = measure(benchmark, ways[way], task=task, way=way, images=IMAGES, device=device, rounds=10, warmup_rounds=2)
    assert found.shape == (IMAGES, DRAWS)
