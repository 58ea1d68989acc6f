"""The training loop that the examples share; your own models may be trained in any other way."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vaecore import Images


def minimise(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Images,
    *,
    steps: int = 600,
    batch_size: int = 64,
    learning_rate: float = 8e-3,
) -> None:
    """Adam on loss(pixels, labels) of random batches; labels are zeros where the images have none.

    learning_rate: the peak of a one-cycle schedule.
    """
    device = next(model.parameters()).device
    pixels = images.pixels.to(device)
    labels = torch.zeros(len(pixels), dtype=torch.int64) if images.labels is None else images.labels
    labels = labels.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(pixels), (batch_size,)).to(device)
        value = loss(pixels[rows], labels[rows])
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
