"""A small classifier of real digits, which the tests of the library share."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate


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
