"""An epoch of training of each reference model, beside the loop that tutorials have: a DataLoader and plain Adam."""

from dataclasses import replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from bench.measure import DEVICES, measure
from bench.table import OURS
from vaecore import VAE, Classifier, ClassifierConfig, Images, VAEConfig, fit_classifier, fit_vae
from vaecore.suite import Study

IMAGES, TUTORIAL = 5_000, "DataLoader and Adam"
KINDS = ("VAE", "classifier")


def tutorial_vae(images: Images, config: VAEConfig, device: str) -> nn.Module:
    """The common example of a VAE in PyTorch, with our networks."""
    model = VAE(config, images.shape).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for (rows,) in DataLoader(TensorDataset(images.pixels), batch_size=config.batch_size, shuffle=True):
        batch = rows.to(device)
        mean, log_variance = model.encode(batch)
        decoded = model.decode(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        error = binary_cross_entropy(decoded, batch, reduction="sum")
        loss = error - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def tutorial_classifier(images: Images, config: ClassifierConfig, device: str) -> nn.Module:
    """The common example of a classifier in PyTorch, with our network, and without augmentation."""
    assert images.labels is not None
    model = Classifier(config, images.shape, images.classes or 0).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for rows, labels in DataLoader(
        TensorDataset(images.pixels, images.labels), batch_size=config.batch_size, shuffle=True
    ):
        loss = cross_entropy(model(rows.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", [OURS, TUTORIAL])
@pytest.mark.parametrize("kind", KINDS)
def test_epoch(benchmark: BenchmarkFixture, study: Study, device: str, kind: str, way: str) -> None:
    """MNIST's settings, on training images of the study, over again where there are fewer."""
    repeats = -(-IMAGES // len(study.setup.train))
    rows = torch.arange(len(study.setup.train)).repeat(repeats)[:IMAGES]
    images = study.setup.train.take(rows)

    def run() -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if kind == "VAE":
                config = replace(VAEConfig(), epochs=1)
                model: nn.Module = (
                    fit_vae(images, config, seed=0, device=device)
                    if way == OURS
                    else tutorial_vae(images, config, device)
                )
            else:
                settings = replace(ClassifierConfig(), epochs=1)
                model = (
                    fit_classifier(images, settings, seed=0, device=device)
                    if way == OURS
                    else tutorial_classifier(images, settings, device)
                )
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    weights = measure(benchmark, run, task=f"{kind}, an epoch", way=way, images=IMAGES, device=device, rounds=5)
    assert bool(weights.isfinite().all())
