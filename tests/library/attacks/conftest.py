"""Classifiers to be attacked, and a victim that keeps what it is asked."""

from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from vaecore.toolkit import class_loss, signs


@pytest.fixture(scope="session")
def digits():
    """A convolutional classifier of real digits, 16x16, trained for seconds; test images, labels and random targets."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = interpolate(images, scale_factor=2, mode="bilinear").clamp(0, 1)
    labels = torch.tensor(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(32, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(15):
            for rows in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    model.eval().requires_grad_(requires_grad=False)
    images, labels = images[1400:1480], labels[1400:1480]
    assert (model(images).argmax(1) == labels).float().mean() > 0.85
    offset = torch.randint(1, 10, labels.shape, generator=torch.Generator().manual_seed(0))
    return model, images, labels, (labels + offset) % 10


@pytest.fixture(scope="session")
def network():
    """Give a function that makes a random classifier of 8x8 images.

    By default it is smooth: no kink where rounding, which differs between batch sizes, would choose a gradient.
    """

    def make(seed, layer=nn.Tanh, *, depth=1, classes=5, gain=2):
        generator = torch.Generator().manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(64, 32), layer()]
        for _ in range(depth - 1):
            layers += [nn.Linear(32, 32), layer()]
        model = nn.Sequential(*layers, nn.Linear(32, classes))
        for parameter in model.parameters():
            parameter.data = gain * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
        return model.eval().requires_grad_(requires_grad=False)

    return make


@dataclass(frozen=True)
class Toy:
    """A smooth classifier, 24 images of whose pixels a third are at the bounds, their labels, and other classes."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    targets: Tensor


@pytest.fixture(scope="session")
def toy(network):
    """See `Toy`."""
    model = network(0)
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images = torch.where(images < 0.2, 0, torch.where(images > 0.87, 1, images))
    labels = model(images).argmax(dim=1)
    return Toy(model, images, labels, (labels + 1 + torch.arange(24) % 4) % 5)


@pytest.fixture(scope="session")
def two_classes():
    """Give a function that makes a linear classifier of two classes.

    Its logits are (margin, 0) at the image `at`; their difference falls by `weight` per pixel: class 1 is ahead beyond.
    """

    def make(weight, margin, *, at, sharpness=1.0):
        def classifier(images):
            ahead = sharpness * (margin - ((images - at) * weight).flatten(1).sum(dim=1))
            return torch.stack([ahead, torch.zeros_like(ahead)], dim=1)

        return classifier

    return make


@pytest.fixture(scope="session")
def one_by_one():
    """Give a function that has a classifier asked about each image alone: rounding cannot depend on the batch."""
    return lambda model: lambda images: torch.cat([model(image) for image in images.split(1)])


@dataclass(frozen=True)
class Question:
    """What a victim was asked, and what it answered."""

    points: Tensor
    rows: Tensor
    step: int
    won: Tensor
    loss: Tensor
    gradient: bool  # whether it was wanted


class Recorder:
    """A victim that is a classifier, and keeps each question and the attack's setting.

    drift: adds it times a random sign to the logits, for each image, step and class, as a randomised victim would.
    """

    def __init__(self, classifier, *, drift=0.0):
        self.classifier, self.drift, self.questions, self.setting = classifier, drift, [], None

    def objective(self, aims, **setting):
        self.setting = {"aims": aims, **setting}
        indices, targeted, loss = (setting[name] for name in ("indices", "targeted", "loss"))

        def objective(points, rows, step):
            logits = self.classifier(points)
            logits = logits + self.drift * signs(step, indices[rows], draws=1, size=logits.shape[1]).squeeze(1)
            won = (logits.argmax(dim=1) == aims[rows]) == targeted
            value = class_loss(logits, aims[rows], targeted=targeted, loss=loss)
            kept = (points.detach().clone(), rows.clone(), step, won, value.detach(), torch.is_grad_enabled())
            self.questions.append(Question(*kept))
            return won, value

        return objective

    def search(self):
        """The questions of the search alone, without the two that the sanity checks ask about few images."""
        return self.questions[2:]


@pytest.fixture(scope="session")
def recorder():
    """See `Recorder`."""
    return Recorder
