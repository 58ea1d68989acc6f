"""Purifiers that need no training, rivals of the VAE's (feature squeezing, Xu et al. 2018)."""

from vaecore import JPEG, BitDepth, GaussianBlur, MedianFilter, Purifier, Threshold

THRESHOLD, BITS, MEDIAN = "threshold", "bit-depth", "median"
ROUNDING = (THRESHOLD, BITS)  # each pixel alone


def plain_purifiers(*, background: bool) -> dict[str, Purifier]:
    """Each purifier, by its name.

    Where images have a background, digits on black, a threshold tells it from what stands before it, and two bits leave
    the digit; photographs keep the five bits that Xu et al. found best for CIFAR-10, and no threshold.
    """
    rounding: dict[str, Purifier] = {THRESHOLD: Threshold(), BITS: BitDepth(2)} if background else {BITS: BitDepth(5)}
    return rounding | {MEDIAN: MedianFilter(), "blur": GaussianBlur(), "jpeg": JPEG()}
