"""Many reconstructions of each image, by a loop of forward passes, as users write it, and by `reconstruct`.

All ways decode with the same weights. They reduce each reconstruction to its squared error, so that what is kept is
small; the last tests keep all pixels, and labels. Milliseconds are per input image, all its draws included. The limit
is of the work that is needed: one encoding, and a decoding for each draw.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.measure import DEVICES, NEEDS_GPU, measure
from bench.peers import as_pythae
from bench.roofline import reconstruction
from bench.table import OURS
from vaecore import VAE, Autoencoder, Classifier, reconstruct, reconstruct_labels, squared_error
from vaecore.suite import Study

NAIVE, COMPILED, PYTHAE = "forward passes", "forward passes, torch.compile", "pythae"


# What `reconstruct` is told, for each way that is ours.
SETTINGS: dict[str, dict[str, Any]] = {
    OURS: {},
    f"{OURS}, compiled": {"compiled": True},
    f"{OURS}, bfloat16": {"precision": "bfloat16"},
    f"{OURS}, bfloat16, compiled": {"precision": "bfloat16", "compiled": True},
}
GPU_SETTINGS: dict[str, dict[str, Any]] = {
    f"{OURS}, tf32": {"precision": "tf32"},
    f"{OURS}, tf32, compiled": {"precision": "tf32", "compiled": True},
}
MODELS = ("MLP", "convolutional")
DRAWS, BATCHES = (1, 10, 100), (1, 10, 100, 1_000, 10_000)
MOST = {"MLP": 100_000, "convolutional": 10_000}  # reconstructions in a call
GRID = [
    (model, draws, images, way)
    for model in MODELS
    for draws in DRAWS
    for images in BATCHES
    if draws * images <= MOST[model]
    for way in (OURS, NAIVE)
]
GRID += [(model, 10, 1_000, way) for model in MODELS for way in (*[*SETTINGS][1:], COMPILED, PYTHAE)]
GRID += [("MLP", 10, 10_000, way) for way in [*SETTINGS][1:]]
FASTEST = f"{OURS}, bfloat16, compiled"
ON_GPU = [("MLP", 10, count, way) for count in (1_000, 10_000) for way in GPU_SETTINGS]
ON_GPU += [("MLP", 100, 1_000, FASTEST), *(("MLP", 100, 10_000, way) for way in (OURS, NAIVE, FASTEST))]
USUAL = (10, 1_000)  # draws and images of the rows that are always measured
ON_BOTH = [
    pytest.param(
        *(model, draws, count, way, device),
        id=f"{device}-{model}-K{draws}-n{count}-{way}",
        marks=[*needs, *(() if (draws, count) == USUAL else (pytest.mark.long,))],
    )
    for device, needs in (("cpu", ()), ("cuda", (NEEDS_GPU,)))
    for model, draws, count, way in GRID + (ON_GPU if needs else [])
]


class ConvolutionalVAE(nn.Module):
    """Two strided convolutions a side, 32 and 64 channels, 20 latents, for 28x28. Untrained: as fast as trained."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.ReLU()
        )
        self.posterior = nn.Linear(64 * 7 * 7, 40)
        self.latents = nn.Linear(20, 64 * 7 * 7)
        self.decoder = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n, 1, 28, 28) to mean and log-variance, (n, 20) each."""
        mean, log_variance = self.posterior(self.encoder(images).flatten(1)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Map (n, 20) to (n, 1, 28, 28)."""
        return self.decoder(self.latents(latents).view(-1, 64, 7, 7))  # type: ignore[no-any-return]


@pytest.fixture
def vae(study: Study, device: str, model: str) -> nn.Module:
    """The first run's VAE, or the convolutional one, on a device."""
    if model == "convolutional":
        if study.setup.test.shape != (1, 28, 28):
            pytest.skip("the convolutional VAE of this benchmark takes grey images of 28x28")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ConvolutionalVAE().to(device).eval().requires_grad_(requires_grad=False)
    found = study.run(0).vae
    assert isinstance(found, nn.Module)
    return copy.deepcopy(found).to(device)  # the study's own stays where it is


def some_images(study: Study, count: int, device: str) -> Tensor:
    """Test images, over again where more are asked for than there are."""
    repeats = -(-count // len(study.setup.test))
    return study.setup.test.pixels.repeat(repeats, 1, 1, 1)[:count].to(device)


def forward(vae: Autoencoder, images: Tensor) -> Tensor:
    """One forward pass of a VAE."""
    mean, log_variance = vae.encode(images)
    return vae.decode(mean + (0.5 * log_variance).exp() * torch.randn_like(mean))


def passes(one: Callable[[Tensor], Tensor], images: Tensor, draws: int) -> Iterator[Tensor]:
    """So many forward passes, each of which encodes anew and draws from the global generator."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(draws):
            yield one(images)


def looped(one: Callable[[Tensor], Tensor], images: Tensor, draws: int) -> Tensor:
    """Squared errors (n, draws), a pass at a time."""
    found = [(decoded - images).square().mean(dim=(1, 2, 3)) for decoded in passes(one, images, draws)]
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(("model", "draws", "count", "way", "device"), ON_BOTH)
def test_errors(
    benchmark: BenchmarkFixture,
    study: Study,
    vae: nn.Module,
    device: str,
    model: str,
    draws: int,
    count: int,
    way: str,
) -> None:
    """The squared error of each draw."""
    images = some_images(study, count, device)
    assert isinstance(vae, ConvolutionalVAE | VAE)
    ways = {NAIVE: lambda: looped(lambda rows: forward(vae, rows), images, draws)}
    settings = (SETTINGS | GPU_SETTINGS).get(way)
    if settings is not None:
        told: dict[str, Any] = {"draws": draws, "seed": 0, "reduce": squared_error, **settings}
        ways[way] = lambda: reconstruct(vae, images, **told)
    if way == COMPILED:
        compiled = torch.compile(lambda rows: forward(vae, rows))
        ways[way] = lambda: looped(compiled, images, draws)
    if way == PYTHAE:
        peer = as_pythae(vae, images.shape[1:], latents=20)
        ways[way] = lambda: looped(peer.reconstruct, images, draws)
    total = draws * count
    found = measure(
        benchmark,
        ways[way],
        task=f"errors of reconstructions, {model} VAE, K = {draws}, {count:,} images",
        way=way,
        images=count,
        device=device,
        rounds=3 if total > (20_000 if model == "MLP" else 2_000) else 7 if total > 1_000 else 30,
        warmup_rounds=1 + (total <= 1_000 or model == "MLP"),
        work=reconstruction(vae, images[:1], draws, count, written=1),
        precision=(settings or {}).get("precision", "float32"),
    )
    benchmark.extra_info |= {"model": f"{model} VAE", "draws": draws}
    assert found.shape == (count, draws)
    assert bool((found > 0).all())


WAYS = [OURS, NAIVE]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["MLP"])
@pytest.mark.parametrize("way", WAYS)
def test_pixels(benchmark: BenchmarkFixture, study: Study, vae: VAE, device: str, way: str) -> None:
    """All pixels of ten draws: (images, 10, c, h, w)."""
    images = some_images(study, 1_000, device)
    ways = {
        OURS: lambda: reconstruct(vae, images, draws=10, seed=0),
        NAIVE: lambda: torch.stack(list(passes(lambda rows: forward(vae, rows), images, 10)), dim=1),
    }
    work = reconstruction(vae, images[:1], 10, len(images), written=images[0].numel())
    told = {"images": len(images), "device": device, "rounds": 10, "warmup_rounds": 2, "work": work}
    found = measure(benchmark, ways[way], task="pixels of reconstructions, K = 10", way=way, **told)  # type: ignore[arg-type]
    assert found.shape == (len(images), 10, *images.shape[1:])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["MLP"])
@pytest.mark.parametrize("way", WAYS)
def test_labels(benchmark: BenchmarkFixture, study: Study, vae: VAE, device: str, way: str) -> None:
    """The label of each of ten draws."""
    images = some_images(study, 1_000, device)
    classifier = copy.deepcopy(study.run(0).classifier)
    assert isinstance(classifier, Classifier)
    classifier.to(device)

    def looped_labels() -> Tensor:
        decoded = passes(lambda rows: forward(vae, rows), images, 10)
        return torch.stack([classifier(rows).argmax(dim=1) for rows in decoded], dim=1)

    ways = {OURS: lambda: reconstruct_labels(vae, classifier, images, draws=10, seed=0), NAIVE: looped_labels}
    found = measure(
        benchmark,
        ways[way],
        task="labels of reconstructions, K = 10",
        way=way,
        images=len(images),
        device=device,
        rounds=10,
        warmup_rounds=2,
    )
    assert found.shape == (len(images), 10)
