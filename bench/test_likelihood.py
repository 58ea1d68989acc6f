"""Log-likelihood beside pythae's `get_nll`, and likelihood regret by encoders beside that by posteriors; one network.

Of pythae 0.1.2's `get_nll`, which looks at an image at a time: it gives the log-likelihood, whatever its name says, and
of all images the mean. Below `batch_size` (100) it takes that many samples whatever `n_samples` says, above it
`n_samples` rounded down to a multiple. Each sample encodes the image again, and gradients are recorded throughout.

The published regret is `likelihood_regret` with how="encoder": 100 steps of Adam on an encoder for each image. Of a
class that vaecore does not know, encoders are optimised one after the other, as its authors do, with torch's fused
Adam, three times as fast as the plain one that they used.
"""

import copy
import math
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.stats import spearmanr
from torch import Tensor

from bench.measure import DEVICES, measure
from bench.peers import as_pythae
from bench.table import OURS
from vaecore import VAE, likelihood_regret, load_images, log_likelihood
from vaecore.suite import Study
from vaecore.toolkit import Precision

DRAWS = 100
PYTHAE, HALF = "pythae", f"{OURS}, bfloat16"
LIKELIHOOD = {OURS: 200, HALF: 200, PYTHAE: 20}  # images, as pythae takes long
PUBLISHED, IN_TURN = f"{OURS}, encoders", "encoders in turn"
REGRETTED = 100  # images, half of them outside


@pytest.fixture
def vae(study: Study, device: str) -> VAE:
    """A copy of the first run's VAE on a device."""
    found = study.run(0).vae
    assert isinstance(found, VAE)
    return copy.deepcopy(found).to(device)  # the study's own stays where it is


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", LIKELIHOOD)
def test_log_likelihood(benchmark: BenchmarkFixture, study: Study, vae: VAE, device: str, way: str) -> None:
    """Importance-weighted log-likelihood of 100 draws; mean over images, in nats, in `extra_info`."""
    images = study.setup.test.pixels[study.setup.indices[: LIKELIHOOD[way]]].to(device)
    peer = as_pythae(vae, images.shape[1:], latents=vae.config.latent_size) if way == PYTHAE else None

    precision: Precision = "bfloat16" if way == HALF else "float32"

    def run() -> Tensor:
        if peer is None:
            return log_likelihood(vae, images, draws=DRAWS, seed=0, precision=precision)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.tensor(peer.get_nll(images, n_samples=DRAWS, batch_size=DRAWS))

    task = f"log-likelihood, {DRAWS} draws"
    told: dict[str, Any] = {"images": len(images), "device": device, "rounds": 5, "precision": precision}
    found = measure(benchmark, run, task=task, way=way, **told)
    benchmark.extra_info["mean_nats"] = float(found.mean())
    if peer is not None:
        benchmark.extra_info["nats_above_vaecore"] = _agree(peer, vae, images)


def _agree(peer: Any, vae: VAE, images: Tensor) -> float:
    """Mean difference of the peer's estimate to ours in nats; asserts that it is within Monte-Carlo error."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        theirs = torch.tensor(
            [peer.get_nll(image, n_samples=DRAWS, batch_size=DRAWS) for image in torch.split(images, 1)]
        )
    ours = torch.stack([log_likelihood(vae, images, draws=DRAWS, seed=seed).cpu() for seed in range(20)])
    spread = ours.var(dim=0).mean().sqrt().item()  # of one estimate of one image
    difference = (theirs - ours.mean(dim=0)).mean().item()
    assert abs(difference) < 4 * spread * math.sqrt((1 + 1 / 20) / len(images))
    return difference


class _OwnClass(VAE):
    """A class of a user's own, whose encoder may be any."""

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As that of the VAE."""
        return super().encode(images)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", [OURS, PUBLISHED, pytest.param(IN_TURN, marks=pytest.mark.long)])
def test_likelihood_regret(benchmark: BenchmarkFixture, study: Study, vae: VAE, device: str, way: str) -> None:
    """Regret of 50 test images and 50 letters; Spearman correlations with the published one in its `extra_info`."""
    half = REGRETTED // 2
    images = torch.cat(
        [study.setup.test.pixels[study.setup.indices[:half]], load_images("letters", "test").pixels[:half]]
    )
    images = images.to(device)
    own = _OwnClass(vae.config, vae.image_shape).to(device).eval()
    own.load_state_dict(vae.state_dict())
    ways = {
        OURS: lambda seed: likelihood_regret(vae, images, seed=seed),
        PUBLISHED: lambda seed: likelihood_regret(vae, images, seed=seed, how="encoder"),
        IN_TURN: lambda seed: likelihood_regret(own, images, seed=seed, how="encoder"),
    }
    slow = way == IN_TURN
    found = measure(
        benchmark,
        lambda: ways[way](0),
        task="likelihood regret",
        way=way,
        images=len(images),
        device=device,
        rounds={OURS: 5, PUBLISHED: 2}.get(way, 1),
        warmup_rounds=0 if slow else 1,
    )
    if slow:
        for other in (OURS, PUBLISHED):
            ranks = ways[other](1).cpu()
            everything, inside = (
                float(spearmanr(found.cpu()[:count], ranks[:count]).statistic) for count in (REGRETTED, half)
            )
            benchmark.extra_info[f"rank_correlation, {other}"] = {"all": everything, "test images": inside}
            assert everything > 0.95
