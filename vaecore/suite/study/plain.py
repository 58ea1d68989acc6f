"""Rivals of the VAE's reconstructions: a search in latent space, and purifiers that need no training.

The latter are those of feature squeezing (Xu et al. 2018).
"""

from vaecore import JPEG, Autoencoder, BitDepth, GaussianBlur, LatentSearch, MedianFilter, Purifier, Threshold

THRESHOLD, BITS, MEDIAN, SEARCH = "threshold", "bit-depth", "median", "latent-search"
ROUNDING = (THRESHOLD, BITS)  # each pixel alone


def plain_purifiers(*, background: bool) -> dict[str, Purifier]:
    """Each purifier, by its name.

    Where images have a background, digits on black, a threshold tells it from what stands before it, and two bits leave
    the digit; photographs keep the five bits that Xu et al. found best for CIFAR-10, and no threshold.
    """
    rounding: dict[str, Purifier] = {THRESHOLD: Threshold(), BITS: BitDepth(2)} if background else {BITS: BitDepth(5)}
    return rounding | {MEDIAN: MedianFilter(), "blur": GaussianBlur(), "jpeg": JPEG()}


def latent_search(vae: Autoencoder) -> LatentSearch:
    """The search in latent space, as long as a study can afford."""
    return LatentSearch(vae, steps=50, starts=2)
