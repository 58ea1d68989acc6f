"""Random affine and elastic distortion of a batch of images, in one matrix product and one resampling."""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from vaecore._check import check_number


def distort(
    images: Tensor,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    rotation: float = 12.0,
    scale: float = 0.12,
    shear: float = 0.15,
    shift: float = 1.5,
    elastic: float = 0.8,
    smoothness: float = 9.0,
) -> Tensor:
    """Rotate, stretch, shear, shift and elastically bend each image at random (Simard et al. 2003).

    images: (n, channels, height, width) floating point in [0, 1]; outside the frame is black.
    rotation: degrees. scale: relative stretch of each axis. shear: pixels along x for each pixel along y. shift: pixels
    along each axis. Each is uniform between minus and plus its value. elastic: standard deviation, in pixels, of a
    smooth displacement. smoothness: pixels over which it varies.
    generator: the only source of randomness, used equally often for any strengths; or one generator for each image.
    Returns (n, channels, height, width) in [0, 1], dtype and device of `images`. Raises ValueError for another shape or
    dtype, a negative strength, scale >= 1, smoothness <= 0 and another number of generators.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            "images must be floating point of shape (n, channels, height, width);"
            f" got {images.dtype} {tuple(images.shape)} (bytes 0..255: use images.float() / 255)"
        )
    strengths = {"rotation": rotation, "shear": shear, "shift": shift, "elastic": elastic}
    both = "it is the size of a change in both directions"
    for name, strength in strengths.items():
        check_number(name, strength, lambda value: 0 <= value < math.inf, "0 or more and finite", both)
    check_number("scale", scale, lambda value: 0 <= value < 1, "0 or more and below 1", "0.12 stretches by 12 percent")
    check_number("smoothness", smoothness, lambda value: 0 < value < math.inf, "above 0 pixels and finite")

    count, _, height, width = images.shape
    basis = _basis(height, width, smoothness).to(images)
    bends = basis.shape[0] - 3
    generators = [(generator, count)] if isinstance(generator, torch.Generator) else [(g, 1) for g in generator]
    if sum(size for _, size in generators) != count:
        raise ValueError(f"generator must be one, or one for each of {count} images; got {len(generators)}")
    uniform = torch.cat([torch.rand(n, 6, generator=g, device=g.device) for g, n in generators]).to(images) * 2 - 1
    normal = torch.cat([torch.randn(n, 2, bends, generator=g, device=g.device) for g, n in generators]).to(images)

    # Maps each output pixel to its source: rotate, shear, undo the stretch, shift; in pixels from the centre.
    angle = math.radians(rotation) * uniform[:, 0]
    cos, sin = angle.cos(), angle.sin()
    lean = shear * uniform[:, 1]
    stretch = 1 + scale * uniform[:, 2:4]
    offset = shift * uniform[:, 4:6]
    source_x = torch.stack([cos + lean * sin, lean * cos - sin], 1) / stretch[:, :1]
    source_y = torch.stack([sin, cos], 1) / stretch[:, 1:]
    affine = torch.cat([torch.stack([source_x, source_y], 1), offset[:, :, None]], 2)  # (n, 2, 3)

    weights = torch.cat([affine, elastic * normal], 2)  # (n, 2, 3 + bends)
    weights = weights * weights.new_tensor([2 / width, 2 / height])[:, None]  # pixels to grid_sample's [-1, 1]
    grid = (weights.flatten(0, 1) @ basis).view(count, 2, height, width).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).clamp_(0, 1)


@functools.lru_cache(maxsize=8)
def _basis(height: int, width: int, smoothness: float) -> Tensor:
    """Basis of displacements: x, y, 1, and one smooth bump for each control point.

    Returns (3 + bumps, height * width), float64. The squared bumps sum to 1 at each pixel, so that independent weights
    of standard deviation s displace every pixel by s pixels, also between control points.
    """
    rows, columns = max(2, 1 + round(height / smoothness)), max(2, 1 + round(width / smoothness))
    points = torch.eye(rows * columns, dtype=torch.float64).view(-1, 1, rows, columns)
    bumps = F.interpolate(points, size=(height, width), mode="bicubic", align_corners=True).flatten(1)
    bumps = bumps / bumps.square().sum(0).sqrt()
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64) - (height - 1) / 2,
        torch.arange(width, dtype=torch.float64) - (width - 1) / 2,
        indexing="ij",
    )
    return torch.cat([x.reshape(1, -1), y.reshape(1, -1), torch.ones(1, height * width), bumps])
