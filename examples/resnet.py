"""A ResNet of torchvision with its own normalisation of pixels, trained from scratch.

In a clone's root, beside a VAE of pythae (`python -m pip install -e ".[peers]"`):

    pytest claims --dataset examples.make_data:colour_digits --profile smoke \
        --vae examples.pythae_model:make_vae --classifier examples.resnet:make_classifier

Attacks change pixels in [0, 1], so the normalisation must be a part of the model, and not of the data.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

from examples.training import minimise
from vaecore import Images


class ResNet(nn.Module):
    """ResNet-18, for images in colour."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        mean, spread = images.pixels.mean(dim=(0, 2, 3)), images.pixels.std(dim=(0, 2, 3))
        self.mean, self.spread = nn.Buffer(mean.view(-1, 1, 1)), nn.Buffer(spread.view(-1, 1, 1))
        self.model = resnet18(weights=None, num_classes=images.classes or 0)

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w) in [0, 1] to logits (n, classes)."""
        logits: Tensor = self.model((images - self.mean) / self.spread)
        return logits

    def fit(self, images: Images) -> None:
        """Train on cross-entropy."""

        def loss(pixels: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(self(pixels), labels)

        minimise(self, loss, images, steps=120, learning_rate=2e-3)


def make_classifier(seed: int, images: Images) -> ResNet:
    """Make a classifier for such images; torch's random numbers follow from the seed already."""
    del seed
    return ResNet(images)
