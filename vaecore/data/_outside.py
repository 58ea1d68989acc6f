"""Out-of-distribution sets for a test set: made from its images, another set by name, or a user's own."""

import math
import os

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from vaecore._check import describe_shape
from vaecore._noise import image_indices, normal, seed_for, uniform, words
from vaecore.data._images import Images, check_is_images, load_images, load_whole
from vaecore.data._names import LOADED_SHAPES, is_made, outside_name

_DRAWN = ("uniform-noise", "gaussian-noise", "blank")  # without regard to the images of `inside`
PATCHES_ALONG_A_SIDE = 4
MADE_AT_ONCE = 1000


def outside(
    name: str | os.PathLike[str],
    inside: Images,
    *,
    seed: int,
    indices: Tensor | None = None,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Images:
    """The out-of-distribution set `name` for the test set `inside`, with images of the same shape.

    Made from `inside`, image i from image i (OUTSIDE_MADE lists the usual ones), with its label:
    - "rotated-D": by D degrees counter-clockwise about the centre, filled with black; bilinear, but exact at multiples
      of 90 degrees (180 if not square).
    - "mirrored": left to right. "inverted": 1 - x. "dimmed-F": F * x, 0 < F < 1.
    - "permuted": pixels, with their colours, in one random order for all images.
    - "shuffled-patches": 4x4 patches (7x7 pixels each in 28x28) in a random order for each image, never the original.
    - "texture": the Fourier components of the image at random phases, the same for all channels (random-phase texture,
      Galerne et al. 2011), clipped to [0, 1], in 256 levels. But for the clipping, mean colour, power spectrum and
      correlation of the channels stay; edges and objects go.

    Drawn, without labels, independent of the images of `inside`:
    - "uniform-noise": pixels uniform in [0, 1]. "gaussian-noise": normal, mean 0.5, standard deviation 1, clipped to
      [0, 1], mostly black or white. Both as in Liang et al. 2018 (ODIN).
    - "blank": one colour, or grey level, in all of an image, uniform in [0, 1] for each channel.

    Loaded, with labels of its own if any: the test split of a set in OUTSIDE_LOADED, or a user's `.npz`, folder or
    "package.module:attribute" (see `load_images`): its test split if it defines one, else all (of an `.npz`, all of
    `images`, or else `test_images`). All images are returned in the set's order, which may be sorted by class: to
    compare equal numbers, take a random subset.

    seed: with the image's index, the only source of randomness, so that a subset gets the same images as the whole set.
    indices: (n,) int64, index of each image of `inside` if it is a subset; by default 0 to n - 1. root, download: as in
    `load_images`.
    Returns Images named by `outside_name`, split "test". Raises the errors of `load_images`, TypeError if `inside` is
    not Images, and ValueError for an unknown name, for `inside` itself, for images of another shape, and if 4x4 patches
    do not divide the images.
    """
    check_is_images("inside", inside, "test")
    set_name = outside_name(name)
    if set_name == inside.name:
        raise ValueError(
            f"the set outside must be another than the set inside; got {set_name!r} for both"
            " (two files of the same name: rename one)"
        )
    if set_name in LOADED_SHAPES:
        _check_shape(set_name, LOADED_SHAPES[set_name], inside)  # before a download
        return load_images(set_name, "test", root, download=download)
    if not is_made(set_name):
        images = load_whole(name)
        _check_shape(set_name, images.shape, inside)
        return images
    seed = seed_for(f"outside/{set_name}", seed)
    indices = image_indices(len(inside), 0, indices)
    # In parts, as making the random words takes many times the memory of the images.
    parts = [slice(start, start + MADE_AT_ONCE) for start in range(0, len(inside), MADE_AT_ONCE)]
    pixels = torch.cat([_make(set_name, inside.pixels[part], indices[part], seed) for part in parts])
    return Images(pixels, None if set_name in _DRAWN else inside.labels, set_name, "test")


def _check_shape(name: str, shape: tuple[int, int, int], inside: Images) -> None:
    if shape != inside.shape:
        raise ValueError(
            f"the set outside must have images like {inside.name}'s, {describe_shape(inside.shape)}; {name} has"
            f" {describe_shape(shape)} (convert its images, save them as an .npz and give its path)"
        )


def _make(name: str, pixels: Tensor, indices: Tensor, seed: int) -> Tensor:
    """The images of set `name` made from (n, channels, height, width), in the same shape."""
    match name.split("-", 1):
        case ["rotated", degrees]:
            return _rotated(pixels, float(degrees))
        case ["dimmed", factor]:
            return pixels * float(factor)
        case ["mirrored"]:
            return pixels.flip(3)
        case ["inverted"]:
            return 1 - pixels
        case ["permuted"]:
            return _permuted(pixels, seed)
        case ["shuffled", _]:
            return _shuffled(pixels, indices, seed)
        case ["texture"]:
            return _texture(pixels, indices, seed)
        case ["blank"]:
            colours = uniform(seed, indices, draws=1, size=pixels.shape[1], device=pixels.device)
            return colours.view(*pixels.shape[:2], 1, 1).expand_as(pixels).contiguous()
    size = pixels[0].numel()
    if name == "uniform-noise":
        noise = uniform(seed, indices, draws=1, size=size, device=pixels.device)
    else:
        noise = (0.5 + normal(seed, indices, draws=1, size=size, device=pixels.device)).clamp_(0, 1)
    return noise.view(pixels.shape)


def _rotated(pixels: Tensor, degrees: float) -> Tensor:
    height, width = pixels.shape[2:]
    quarters, rest = divmod(degrees % 360, 90)
    if not rest and (height == width or not quarters % 2):
        return torch.rot90(pixels, int(quarters), (2, 3))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Maps each pixel to its source. The units are half the width for x and half the height for y.
    source = [[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]
    grid = F.affine_grid(pixels.new_tensor([source]), [1, 1, height, width], align_corners=False)
    grid = grid.expand(len(pixels), -1, -1, -1)
    turned = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.clamp_(0, 1)  # the sum of the four weights may round to more than 1


def _texture(pixels: Tensor, indices: Tensor, seed: int) -> Tensor:
    size = pixels.shape[2:]
    noise = normal(seed, indices, draws=1, size=size.numel(), device=pixels.device).view(-1, 1, *size)
    turns = torch.fft.rfft2(noise.double()).sgn()
    turns[..., 0, 0] = 1  # so that the mean stays
    made: Tensor = torch.fft.irfft2(torch.fft.rfft2(pixels.double()) * turns, s=tuple(size))
    # In 256 levels, so that the last bits of a Fourier transform, which depend on the machine, make no difference.
    return made.clamp_(0, 1).mul_(255).round_().float().div_(255)


def _permuted(pixels: Tensor, seed: int) -> Tensor:
    index = torch.zeros(1, dtype=torch.int64, device=pixels.device)
    order = words(seed, index, draws=1, size=pixels.shape[2:].numel()).flatten().argsort(stable=True)
    return pixels.flatten(2)[..., order].view(pixels.shape)


def _shuffled(pixels: Tensor, indices: Tensor, seed: int) -> Tensor:
    height, width = size = pixels.shape[2:]
    if height % PATCHES_ALONG_A_SIDE or width % PATCHES_ALONG_A_SIDE:
        raise ValueError(
            f"shuffled-patches needs images with sides that {PATCHES_ALONG_A_SIDE} divides; got {height}x{width}"
            " (pad or crop the images first)"
        )
    side = (height // PATCHES_ALONG_A_SIDE, width // PATCHES_ALONG_A_SIDE)
    count = PATCHES_ALONG_A_SIDE**2
    order = words(seed, indices, draws=1, size=count, device=pixels.device)[:, 0].argsort(dim=1, stable=True)
    # Once in 16! the order is the original; it is then rotated by one.
    original = (order == torch.arange(count, device=order.device)).all(1)
    order[original] = order[original].roll(1, 1)
    patches = F.unfold(pixels, side, stride=side)  # (n, pixels of a patch, patches)
    return F.fold(patches.gather(2, order[:, None].expand_as(patches)), tuple(size), side, stride=side)
