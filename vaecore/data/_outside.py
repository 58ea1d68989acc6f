"""Out-of-distribution sets to stand beside a test set: another set by name, a user's file, or made from its images."""

import math
import operator
import os

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from vaecore._check import describe_shape
from vaecore._noise import image_indices, normal, seed_for, uniform, words
from vaecore.data._images import EMBEDDED, TORCHVISION, Images, load_images, load_whole
from vaecore.data._user_data import own_name

OUTSIDE_MADE = (
    "rotated-90",
    "mirrored",
    "inverted",
    "dimmed-0.3",
    "dimmed-0.1",
    "uniform-noise",
    "gaussian-noise",
    "permuted",
    "shuffled-patches",
)
OUTSIDE_LOADED = (*TORCHVISION, *EMBEDDED)
LOADED_SHAPE = (1, 28, 28)  # of the images of all sets that are loaded by name
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
    """Return the out-of-distribution set `name` to stand beside the test set `inside`, whose size of images it has.

    Made of the images of `inside`, image i of image i (OUTSIDE_MADE lists the usual ones):
    "rotated-D": turned by D degrees counter-clockwise about the centre, below 0 clockwise, in the same frame, black
    from outside it; bilinear, but exact at quarter turns (of images that are not square: at half turns).
    "mirrored": left for right. "inverted": 1 - x. "dimmed-F": F * x, 0 < F < 1.
    "permuted": the pixels, with their colours, in one random order, the same for all images. "shuffled-patches": 4x4
    patches (7x7 pixels of 28x28) in random order, another for each image, never their own.
    "uniform-noise": each pixel uniform in [0, 1]; "gaussian-noise": normal, mean 0.5, standard deviation 1, clipped to
    [0, 1], so that most are black or white. Both are those of Liang et al. 2018 (ODIN); nothing of `inside` is in them.
    Labels are kept, except for noise, which has none: a mirrored 3 still counts as a 3.

    Loaded, by a name in OUTSIDE_LOADED: the test split of that set; from a user's own `.npz`, folder or
    "package.module:attribute", as `load_images` takes them: all of it, or what it says is for the test (of an `.npz`
    all of its `images`, else its `test_images`). Labels are that set's own, if any. However many images there are, all
    are returned, in the set's order, which may go by class: to compare as many as are inside, take a random subset.

    seed: the only source of randomness, together with the index of an image, so that a subset gets what the whole would
    get. indices: (n,) int64, index of each image of `inside`, if that is itself a subset; by default 0 to n - 1.
    root, download: as in `load_images`.
    Returns Images named as `outside_name` says, split "test". Raises what `load_images` raises, TypeError where
    `inside` is not Images, and ValueError for an unknown name, for `inside` itself, for images of another size or
    other channels, and for patches that do not divide the images.
    """
    if not isinstance(inside, Images):
        raise TypeError(f"inside must be Images; got {type(inside).__name__} (Images(pixels, None, name, 'test'))")
    known = outside_name(name)
    if known == inside.name:
        raise ValueError(
            f"the set outside must be another than the set inside; got {known!r} for both"
            " (two files of the same name: rename one)"
        )
    if known in OUTSIDE_LOADED:
        _check_shape(known, LOADED_SHAPE, inside)  # before a download rather than after it
        return load_images(known, "test", root, download=download)
    if not is_made(known):
        found = load_whole(name)
        _check_shape(known, found.shape, inside)
        return found
    seed = seed_for(f"outside/{known}", operator.index(seed))
    indices = image_indices(len(inside), 0, indices)
    # In parts, because the random words' arithmetic takes many times the memory of the images.
    parts = [slice(start, start + MADE_AT_ONCE) for start in range(0, len(inside), MADE_AT_ONCE)]
    pixels = torch.cat([_make(known, inside.pixels[part], indices[part], seed) for part in parts])
    return Images(pixels, None if known.endswith("-noise") else inside.labels, known, "test")


def outside_name(name: str | os.PathLike[str]) -> str:
    """Return the name that the out-of-distribution set `name` goes by: of a path its file's, of the others their own.

    Numbers are written in one way: "dimmed-.30" is "dimmed-0.3". No file is read.
    Raises ValueError, with all forms, for an unknown name, and for a factor or angle that is none.
    """
    text = os.fspath(name)
    if text in OUTSIDE_MADE or text in OUTSIDE_LOADED:
        return text
    if (own := own_name(text)) is not None:
        return own
    kind, _, written = text.partition("-")
    if kind not in ("rotated", "dimmed") or not written:
        raise ValueError(
            f"the set outside must be made from the set inside ({', '.join(OUTSIDE_MADE)}; rotated-D for any D degrees,"
            f" dimmed-F for any factor 0 < F < 1), loaded by name ({', '.join(OUTSIDE_LOADED)}), or your own (the path"
            f" of a file that ends in .npz or of a folder, package.module:attribute); got {text!r}"
        )
    amount = _number(written)
    if kind == "dimmed" and not (amount is not None and 0 < amount < 1):
        raise ValueError(f"dimmed-F needs a factor F above 0 and below 1, as in dimmed-0.3; got {text!r}")
    if kind == "rotated" and not (amount is not None and math.isfinite(amount) and amount % 360):
        raise ValueError(
            f"rotated-D needs an angle D in degrees, as in rotated-15; got {text!r} (a whole turn changes nothing)"
        )
    return f"{kind}-{amount!r}".removesuffix(".0")


def is_made(name: str) -> bool:
    """Whether the set of a name, as `outside_name` gives it, is made of the images inside."""
    kind, _, amount = name.partition("-")
    return name in OUTSIDE_MADE or (kind in ("rotated", "dimmed") and _number(amount) is not None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_shape(name: str, shape: tuple[int, int, int], inside: Images) -> None:
    if shape != inside.shape:
        raise ValueError(
            f"the set outside must have images like {inside.name}'s, {describe_shape(inside.shape)}; {name} has"
            f" {describe_shape(shape)} (convert its images, save them as an .npz and give its path)"
        )


def _make(name: str, pixels: Tensor, indices: Tensor, seed: int) -> Tensor:
    """Make the images of set `name` of (n, channels, height, width), in the same shape."""
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
    # From each pixel back to its source, in units of half a side, so that the units of x and y differ.
    source = [[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]
    grid = F.affine_grid(pixels.new_tensor([source]), [1, 1, height, width], align_corners=False)
    grid = grid.expand(len(pixels), -1, -1, -1)
    turned = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.clamp_(0, 1)  # the four weights' sum may round to more than 1


def _permuted(pixels: Tensor, seed: int) -> Tensor:
    for_all = torch.zeros(1, dtype=torch.int64, device=pixels.device)
    order = words(seed, for_all, draws=1, size=pixels.shape[2:].numel()).flatten().argsort(stable=True)
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
    # Once in 16! the order is the patches' own; the next best then is a step round.
    unmoved = (order == torch.arange(count, device=order.device)).all(1)
    order[unmoved] = order[unmoved].roll(1, 1)
    patches = F.unfold(pixels, side, stride=side)  # (n, pixels of a patch, patches)
    return F.fold(patches.gather(2, order[:, None].expand_as(patches)), tuple(size), side, stride=side)
