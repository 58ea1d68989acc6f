"""Augmentation of training images: distortion, shifts and mirrored images."""

import math

import pytest
import torch
from torch.nn.functional import pad
from torch.testing import assert_close

from vaecore import load_images
from vaecore.toolkit import augment, distort

NONE = {"rotation": 0, "scale": 0, "shear": 0, "shift": 0, "elastic": 0}


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_distortion_keeps_range_and_input_and_obeys_its_generator(generator):
    images = load_images("digits", "train").pixels[:64]
    before, state = images.clone(), torch.random.get_rng_state()
    first, second = distort(images, generator), distort(images, generator)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images, before)
    assert torch.equal(first, distort(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(first, second)
    assert first.shape == images.shape
    assert first.min() == 0
    assert first.max() <= 1
    # Ink is moved about, hardly made or lost.
    assert first.mean().item() == pytest.approx(images.mean().item(), rel=0.05)


def test_with_a_generator_each_an_image_is_distorted_as_it_would_be_alone():
    images = load_images("digits").pixels[:3].double()
    together = distort(images, [torch.Generator().manual_seed(seed) for seed in range(3)])
    assert_close(together[2:], distort(images[2:], torch.Generator().manual_seed(2)))
    with pytest.raises(ValueError, match=r"one for each of 3 images; got 2"):
        distort(images, [torch.Generator(), torch.Generator()])


def test_distortion_of_no_strength_is_the_identity(generator):
    images = torch.rand(5, 1, 28, 20, generator=generator)
    assert_close(distort(images, generator, **NONE), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("strength", "spread"), [({"shift": 2.0}, 2 / 3**0.5), ({"elastic": 0.7}, 0.7)])
def test_distortion_displaces_by_as_many_pixels_as_it_says(generator, strength, spread):
    # A ramp is resampled exactly, so that the change of its value tells the displacement along x in pixels.
    ramp = (torch.arange(40) / 40).expand(2000, 1, 24, 40)
    moved = (distort(ramp, generator, **(NONE | strength)) - ramp)[:, 0, 12, 20] * 40
    assert moved.std().item() == pytest.approx(spread, rel=0.06)
    assert moved.mean().abs().item() < 0.1


def test_rotation_turns_about_the_centre_by_at_most_its_degrees(generator):
    images = torch.zeros(500, 1, 41, 41)
    images[:, :, 20, 32:35] = 1  # a blot 13 pixels to the right of the centre
    turned = distort(images, generator, **(NONE | {"rotation": 30}))
    along = torch.arange(41) - 20.0
    y, x = ((turned.sum((1, axis)) * along).sum(1) / turned.sum((1, 2, 3)) for axis in (3, 2))
    angles = torch.rad2deg(torch.atan2(y, x))
    assert_close(torch.hypot(x, y), torch.full((500,), 13.0), atol=0.2, rtol=0)
    assert 29 < angles.max() < 31
    assert -31 < angles.min() < -29


@pytest.mark.parametrize(
    ("images", "strength", "message"),
    [
        (torch.zeros(2, 28, 28), {}, r"shape \(n, channels, height, width\); got torch.float32 \(2, 28, 28\)"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), {}, r"floating point .* got torch.uint8"),
        (torch.zeros(2, 1, 28, 28), {"shift": -1.0}, "shift must be 0 or more and finite; got -1.0"),
        (torch.zeros(2, 1, 28, 28), {"elastic": math.nan}, "elastic must be 0 or more and finite; got nan"),
        (torch.zeros(2, 1, 28, 28), {"scale": 1.0}, "scale must be 0 or more and below 1; got 1.0"),
        (torch.zeros(2, 1, 28, 28), {"smoothness": 0.0}, "smoothness must be above 0 pixels and finite; got 0.0"),
    ],
)
def test_distortion_refuses_wrong_shapes_and_strengths(generator, images, strength, message):
    with pytest.raises(ValueError, match=message):
        distort(images, generator, **strength)


@pytest.mark.parametrize(
    ("kind", "sides", "edges", "most", "ways"),
    [("shift", (5, 7), "constant", 1, 9), ("flip", (8, 10), "reflect", 1, 18)],
)
def test_shifts_and_mirrors_are_exact_and_all_of_them_occur(generator, kind, sides, edges, most, ways):
    count, (height, width) = 67 * ways, sides
    pixels = torch.rand(count, 2, height, width, generator=generator)
    padded, range_ = pad(pixels, (most,) * 4, edges), range(2 * most + 1)
    shifts = torch.stack(
        [padded[..., down : down + height, right : right + width] for down in range_ for right in range_]
    )
    expected = torch.cat([shifts, shifts.flip(4)]) if kind == "flip" else shifts
    with torch.random.fork_rng():
        torch.manual_seed(0)
        changed = augment(pixels, kind)
    assert changed.shape == pixels.shape
    match = (expected == changed).flatten(2).all(dim=2)  # (ways, images)
    assert match.sum(dim=0).tolist() == [1] * count
    times = match.sum(dim=1)  # 67 expected, standard deviation 8
    assert len(times) == ways
    assert times.min() > 35
    assert times.max() < 105


def test_augmentation_by_name(generator):
    pixels = torch.rand(20, 1, 8, 8, generator=generator)
    assert augment(pixels, "none") is pixels
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = augment(pixels, "distort"), augment(pixels, "distort")
        torch.manual_seed(3)
        assert torch.equal(augment(pixels, "distort"), first)
    assert not torch.equal(first, second)
    assert not torch.equal(first, pixels)
    assert first.shape == pixels.shape
