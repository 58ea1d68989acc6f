"""Randomised smoothing: certificates that no small change (L2) of an image alters its label under noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vaecore._batch_sizes import answers
from vaecore._check import check_classifier, check_counts, check_images, check_number
from vaecore._noise import image_indices, normal, seed_for
from vaecore.models._networks import Classify

ABSTAINED = -1


@dataclass(frozen=True, eq=False)
class Certificate:
    """What smoothing says of n images, one row for each.

    label: (n,) int64, of the smoothed classifier; -1 where it abstains. radius: (n,) float64, the L2 size, in pixel
    units, below which no change of the image alters that label; 0 where it abstains.
    """

    label: Tensor
    radius: Tensor

    def __repr__(self) -> str:
        """The number of images, and of those that are certified."""
        return f"Certificate({len(self.label):,} images, {int((self.label != ABSTAINED).sum()):,} certified)"


def certify(
    classifier: Classify,
    images: Tensor,
    *,
    sigma: float,
    seed: int,
    draws: int = 1000,
    selection: int = 100,
    alpha: float = 0.001,
    first_index: int = 0,
    indices: Tensor | None = None,
) -> Certificate:
    """Certify the label that a classifier gives most often under Gaussian noise of standard deviation `sigma`.

    images: (n, c, height, width) in [0, 1]; noisy ones are clipped to it before the classifier sees them, as a part of
    it. selection: noisy copies that choose the label; draws: others, that count how often it is given. Its chance has
    an exact binomial lower bound; above a half the radius is sigma times its normal quantile, else there is none. A
    certificate is wrong with a chance of `alpha` at most. A denoiser in front, as in `Purified`, is a part of the
    classifier (Salman et al. 2020; Carlini et al. 2023). Noise depends only on `seed` and the image's index,
    `first_index` + i for image i, or `indices[i]`. Raises ValueError for invalid input.
    Source: Cohen, Rosenfeld & Kolter (2019), section 3.2, CERTIFY.
    """
    from scipy.special import betaincinv, ndtri  # noqa: PLC0415  # takes five times as long to import as this package

    images = check_images(images)
    check_classifier(classifier)
    draws, selection = check_counts(draws=draws, selection=selection)
    check_number("sigma", sigma, lambda value: 0 < value < torch.inf, "above 0 and finite")
    check_number("alpha", alpha, lambda value: 0 < value < 0.5, "above 0 and below a half")
    index = image_indices(len(images), first_index, indices).to(images.device)

    def counts(row: int, purpose: str, number: int) -> Tensor:
        """How often each class is given to noisy copies of an image."""
        noise = normal(seed_for(f"certify/{purpose}", seed), index[row : row + 1], draws=number, size=images[0].numel())
        noisy = (images[row] + sigma * noise.view(number, *images.shape[1:])).clamp_(0, 1)
        logits = answers(classifier, noisy)
        return torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1])

    label, radius = torch.full((len(images),), ABSTAINED), torch.zeros(len(images), dtype=torch.float64)
    with torch.no_grad():
        for row in range(len(images)):
            chosen = int(counts(row, "selection", selection).argmax())
            given = int(counts(row, "draws", draws)[chosen])
            # Clopper and Pearson's lower bound; scipy.stats, which has it by name, takes long to import.
            least = betaincinv(given, draws - given + 1, alpha) if given else 0.0
            if least > 0.5:
                label[row], radius[row] = chosen, sigma * ndtri(least)
    return Certificate(label, radius)
