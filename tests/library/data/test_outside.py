"""Out-of-distribution sets: made ones by hand, against scipy and by chance; loaded ones; names, known and unknown."""

import time

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from vaecore import OUTSIDE_LOADED, OUTSIDE_MADE, Images, load_images, outside, outside_name

RANDOM = ("uniform-noise", "gaussian-noise", "permuted", "shuffled-patches", "blank", "texture")


def numbered(count, height=28, width=28):
    """Give images in which no two pixels are equal, labelled 0, 1, 2, 0, ..."""
    pixels = torch.arange(count * height * width, dtype=torch.float32) / (count * height * width)
    return Images(pixels.view(count, 1, height, width), torch.arange(count) % 3, "numbered", "test")


def unlabelled(pixels, name="some"):
    return Images(pixels, None, name, "test")


def random_pixels(*shape):
    return torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0))


# Made sets, by hand


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rotated-90", [[0.25, 0.75], [0.0, 0.5]]),
        ("rotated-180", [[0.75, 0.5], [0.25, 0.0]]),
        ("rotated-270", [[0.5, 0.0], [0.75, 0.25]]),
        ("rotated--90", [[0.5, 0.0], [0.75, 0.25]]),
        ("rotated-450", [[0.25, 0.75], [0.0, 0.5]]),
        ("mirrored", [[0.25, 0.0], [0.75, 0.5]]),
        ("inverted", [[1.0, 0.75], [0.5, 0.25]]),
        ("dimmed-0.5", [[0.0, 0.125], [0.25, 0.375]]),
    ],
)
def test_four_pixels_go_where_the_name_says_exactly(name, expected):
    inside = Images(torch.tensor([[[[0.0, 0.25], [0.5, 0.75]]]] * 2), torch.tensor([3, 1]), "four", "train")
    made = outside(name, inside, seed=0)
    assert torch.equal(made.pixels, torch.tensor([[expected]] * 2))
    assert (made.labels.tolist(), made.name, made.split) == ([3, 1], name, "test")


@pytest.mark.parametrize("shape", [(28, 28), (9, 14), (12, 8)])
@pytest.mark.parametrize("degrees", ["15", "-33.5", "60", "90", "180", "204"])
def test_any_angle_turns_as_scipy_does_bilinear_with_black_outside(shape, degrees):
    pixels = random_pixels(*shape)
    made = outside(f"rotated-{degrees}", unlabelled(pixels), seed=0)
    expected = [
        ndimage.rotate(image.double().numpy(), float(degrees), reshape=False, order=1, mode="grid-constant")
        for image in pixels[:, 0]
    ]
    np.testing.assert_allclose(made.pixels[:, 0].numpy(), np.stack(expected), atol=1e-5, rtol=0)
    assert made.labels is None


def test_a_half_turn_is_exact_whatever_the_shape():
    inside = numbered(2, 6, 10)
    assert torch.equal(outside("rotated-180", inside, seed=0).pixels, inside.pixels.flip(2, 3))


def test_white_stays_within_range_at_every_angle():
    for degrees in range(1, 90):
        made = outside(f"rotated-{degrees}", unlabelled(torch.ones(1, 1, 27, 31)), seed=0)
        assert made.pixels[0, 0, 13, 15].item() == pytest.approx(1)  # Images themselves refuse a value above 1


def test_permuted_puts_the_pixels_of_all_images_in_one_random_order():
    inside = numbered(3, 6, 9)
    made = outside("permuted", inside, seed=4).pixels.flatten(1)
    order = torch.searchsorted(inside.pixels[0].flatten(), made[0])
    assert sorted(order.tolist()) == list(range(54))
    assert torch.equal(made, inside.pixels.flatten(1)[:, order])
    # A random order keeps 1 pixel of 54 in place on average, and its correlation with the old one is 0 +- 0.14.
    assert (order == torch.arange(54)).sum() < 7
    assert abs(np.corrcoef(order, np.arange(54))[0, 1]) < 0.5


@pytest.mark.parametrize("shape", [(28, 28), (8, 12)])
def test_shuffled_patches_keep_every_patch_and_never_all_in_place(shape):
    inside, (height, width) = numbered(50, *shape), (shape[0] // 4, shape[1] // 4)

    def patches(image):
        """The patches of (h, w), row by row, as bytes."""
        cut = image.view(4, height, 4, width).transpose(1, 2).reshape(16, height, width)
        return [patch.numpy().tobytes() for patch in cut]

    orders = set()
    for before, after in zip(
        inside.pixels[:, 0], outside("shuffled-patches", inside, seed=0).pixels[:, 0], strict=True
    ):
        assert len(set(patches(before))) == 16
        assert sorted(patches(before)) == sorted(patches(after))
        orders.add(tuple(patches(before).index(patch) for patch in patches(after)))
    assert len(orders) == 50
    assert tuple(range(16)) not in orders


def test_a_patch_is_as_likely_to_come_to_any_place():
    tiny = unlabelled((torch.arange(16.0) / 16).expand(4000, 16).reshape(4000, 1, 4, 4).clone())
    order = (outside("shuffled-patches", tiny, seed=0).pixels.flatten(1) * 16).long()
    counts = torch.stack([(order == patch).sum(0) for patch in range(16)])
    # 225 degrees of freedom: 4.5 standard deviations of chi-square are 95.
    assert abs(((counts - 250) ** 2 / 250).sum().item() - 225) < 95


def test_patches_that_would_all_stay_are_moved_on(monkeypatch):
    def rising(seed, indices, *, draws, size, device=None):
        return torch.arange(size).expand(len(indices), draws, size)

    # A private door: no seed in reach puts all 16 patches in their own places, as one order in 16! does.
    monkeypatch.setattr("vaecore.data._outside.words", rising)
    inside = numbered(2, 4, 4)
    made = outside("shuffled-patches", inside, seed=0)
    assert torch.equal(made.pixels.flatten(1), inside.pixels.flatten(1).roll(1, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (9, 14), (12, 7)])
def test_a_texture_keeps_mean_spectrum_and_correlation_of_the_channels(channels, shape):
    random = np.random.default_rng(0)
    pixels = 0.5 + 0.02 * random.standard_normal((4, channels, *shape)) + 0.05 * random.standard_normal((4, 1, *shape))
    made = outside("texture", unlabelled(torch.from_numpy(pixels).float()), seed=0).pixels.double().numpy()
    before, after = np.fft.fft2(pixels), np.fft.fft2(made)
    rounding = 4 * np.prod(shape) ** 0.5 * 0.29 / 255  # of all pixels to 256 levels, in a Fourier component
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=rounding)
    np.testing.assert_allclose(after[..., 0, 0], before[..., 0, 0], atol=rounding)
    across = [(each[:, :1] * each.conj()).sum((2, 3)).real / np.prod(shape) for each in (before, after)]
    np.testing.assert_allclose(across[1], across[0], rtol=0.01)
    assert np.abs([np.corrcoef(pixels[i, 0].ravel(), made[i, 0].ravel())[0, 1] for i in range(4)]).max() < 0.5
    np.testing.assert_allclose(made * 255, np.round(made * 255), atol=1e-4)


# Noise


def test_a_blank_image_has_one_colour_of_its_own():
    some = unlabelled(torch.zeros(500, 3, 5, 4))
    colours = outside("blank", some, seed=0).pixels
    assert torch.equal(colours, colours[:, :, :1, :1].expand_as(colours))
    red, green, blue = colours[:, :, 0, 0].T.numpy()
    for channel in (red, green, blue):
        assert stats.kstest(channel, "uniform").pvalue > 0.01
    assert np.abs(np.corrcoef([red, green, blue])[np.triu_indices(3, 1)]).max() < 4.5 / 500**0.5
    grey = outside("blank", numbered(5), seed=0)
    assert len(grey.pixels.unique()) == 5
    assert grey.labels is None


def test_uniform_noise_is_uniform_and_independent():
    made = outside("uniform-noise", numbered(64), seed=0)
    assert stats.kstest(made.pixels.flatten().numpy(), "uniform").pvalue > 0.01
    correlation = np.corrcoef(made.pixels.flatten(1).numpy())
    assert np.abs(correlation[np.triu_indices(64, 1)]).max() < 4.5 / 28
    neighbours = np.corrcoef(made.pixels[..., :-1].flatten(), made.pixels[..., 1:].flatten())
    assert abs(neighbours[0, 1]) < 4.5 / 48384**0.5
    assert made.labels is None


def test_gaussian_noise_has_mean_half_and_deviation_one_and_is_clipped():
    made = outside("gaussian-noise", numbered(256), seed=0)
    values = made.pixels.flatten().double().numpy()
    inner = values[(values > 0) & (values < 1)]
    tail = stats.norm.cdf(-0.5)
    for share in ((values == 0).mean(), (values == 1).mean()):
        assert share == pytest.approx(tail, abs=4.5 * (tail * (1 - tail) / len(values)) ** 0.5)
    assert stats.kstest(inner, stats.truncnorm(-0.5, 0.5, loc=0.5).cdf).pvalue > 0.01
    assert made.labels is None


def test_the_two_noises_and_two_seeds_have_nothing_in_common():
    names = ("uniform-noise", "gaussian-noise")
    drawn = [outside(name, numbered(64), seed=seed).pixels.flatten().numpy() for name in names for seed in (0, 1)]
    assert np.abs(np.corrcoef(drawn)[np.triu_indices(4, 1)]).max() < 4.5 / 50176**0.5


# Whatever part is made


@pytest.mark.parametrize("name", [*OUTSIDE_MADE, "rotated-15"])
def test_any_part_gets_what_the_whole_gets(name):
    inside = numbered(2003, 4, 4)  # made in parts of a thousand
    whole = outside(name, inside, seed=3)
    chosen = torch.tensor([2002, 0, 1000, 999])
    assert outside(name, inside.take(chosen), seed=3, indices=chosen) == whole.take(chosen)
    assert outside(name, inside.take(slice(2)), seed=3) == whole.take(slice(2))
    assert (outside(name, inside, seed=4) == whole) == (name not in RANDOM)


@pytest.mark.parametrize("name", OUTSIDE_MADE)
def test_every_listed_set_differs_from_the_inside_which_stays_as_it_was(name):
    inside = numbered(2)
    digest, state = inside.digest, torch.random.get_rng_state()
    made = outside(name, inside, seed=0)
    assert (made.pixels.shape, made.pixels.dtype, made.name) == (inside.pixels.shape, torch.float32, name)
    assert not torch.equal(made.pixels, inside.pixels)
    assert Images(inside.pixels, inside.labels, "numbered", "test").digest == digest
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_sets_are_the_same_on_every_machine():
    inside = unlabelled((torch.arange(784) % 256 / 255).view(1, 1, 28, 28).repeat(2, 1, 1, 1))
    assert {name: outside(name, inside, seed=0).digest for name in RANDOM} == {
        "uniform-noise": "15cb353cc2cd7a4049f3e1cf52014ebd",
        "gaussian-noise": "38f27dc61644342bc188e9d6a36562c5",
        "permuted": "c98b8ffaed07fe63cfce3746c5cb862d",
        "shuffled-patches": "006b86eea4ab6811f07ff88adf12509c",
        "blank": "b39d91e4d079b2f33b30ea7cb5eec602",
        "texture": "e31a4f317062fbada5b7943f04803983",
    }


# Loaded sets


@pytest.mark.parametrize("name", ["digits", "letters"])
def test_an_embedded_set_is_its_whole_test_split(name):
    assert outside(name, numbered(2), seed=0, download=False) == load_images(name)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST"), ("emnist-letters", "EMNIST")],
)
def test_a_set_of_torchvision_is_its_whole_test_split(name, folder, tmp_path, write_idx):
    for split, prefix, count in (("train", "train", 2), ("test", "t10k", 5)):
        path = tmp_path / folder / "raw" / (f"emnist-letters-{split}" if folder == "EMNIST" else prefix)
        write_idx(path.with_name(f"{path.name}-images-idx3-ubyte"), np.arange(count * 784).reshape(-1, 28, 28) % 251)
        write_idx(path.with_name(f"{path.name}-labels-idx1-ubyte"), np.arange(1, count + 1))
    images = outside(name, numbered(3), seed=0, root=tmp_path, download=False)
    assert (len(images), images.name, images.split) == (5, name, "test")
    assert images == load_images(name, "test", tmp_path)
    assert set(OUTSIDE_LOADED) == {
        *("mnist", "fashion-mnist", "kmnist", "emnist-letters", "cifar-10", "cifar-100", "svhn", "digits", "letters")
    }


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100", "svhn"])
def test_a_set_in_colour_is_its_whole_test_split(name, tmp_path, write_colour):
    written, inside = write_colour(name, tmp_path), unlabelled(torch.zeros(1, 3, 32, 32))
    images = outside(name, inside, seed=0, root=tmp_path, download=False)
    assert images == load_images(name, "test", tmp_path)
    assert len(images) == len(written["test"][0])


@pytest.mark.parametrize("form", [str, lambda path: path], ids=["text", "path"])
def test_a_file_of_images_is_taken_whole_and_in_order(tmp_path, form):
    pixels = np.arange(4 * 64, dtype=np.float32).reshape(4, 8, 8) / 256
    with (tmp_path / "Mine.NPZ").open("wb") as file:
        np.savez(file, images=pixels, labels=np.array([2, 0, 1, 0]))
    images = outside(form(tmp_path / "Mine.NPZ"), numbered(9, 8, 8), seed=0)
    assert torch.equal(images.pixels[:, 0], torch.from_numpy(pixels))
    assert (images.labels.tolist(), images.name, images.split) == ([2, 0, 1, 0], "Mine.NPZ", "test")


@pytest.mark.parametrize("name", ["digits", "rotated-90"])
def test_the_inside_is_not_outside_itself(name):
    with pytest.raises(ValueError, match=rf"another than the set inside; got '{name}' for both"):
        outside(name, unlabelled(random_pixels(28, 28), name), seed=0)


def test_images_of_another_size_are_refused_before_any_download(tmp_path):
    inside, colour = numbered(2, 8, 12), unlabelled(torch.zeros(1, 3, 28, 28), "colour")
    with pytest.raises(ValueError, match=r"like numbered's, 8x12 in grey; kmnist has 28x28 in grey \(convert"):
        outside("kmnist", inside, seed=0, root=tmp_path)
    with pytest.raises(ValueError, match=r"like colour's, 28x28 in colour; kmnist has 28x28 in grey"):
        outside("kmnist", colour, seed=0, root=tmp_path)
    with pytest.raises(ValueError, match=r"like numbered's, 32x32 in grey; svhn has 32x32 in colour"):
        outside("svhn", numbered(2, 32, 32), seed=0, root=tmp_path)
    assert not any(tmp_path.iterdir())
    np.savez(tmp_path / "mine.npz", images=np.zeros((2, 12, 8)))
    with pytest.raises(ValueError, match=r"like numbered's, 8x12 in grey; mine.npz has 12x8 in grey"):
        outside(tmp_path / "mine.npz", inside, seed=0)


def test_an_absent_set_fails_fast_with_the_remedy(tmp_path, mirror):
    with pytest.raises(FileNotFoundError, match=r"switched off.*VAECORE_DATA, or choose 'digits' or 'letters'"):
        outside("emnist-letters", numbered(2), seed=0, root=tmp_path, download=False)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.npz"):
        outside(tmp_path / "absent.npz", numbered(2), seed=0)
    mirror("refuses")
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"kmnist is not complete.*no server answers.*'letters'"):
        outside("kmnist", numbered(2), seed=0, root=tmp_path)
    assert time.monotonic() - start < 3
    assert not any(tmp_path.iterdir())


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dimmed-.30", "dimmed-0.3"),
        ("rotated-15.0", "rotated-15"),
        ("rotated--22.5", "rotated--22.5"),
        ("rotated-90.0", "rotated-90"),
        ("letters", "letters"),
        ("some/folder/rotated-90.npz", "rotated-90.npz"),
    ],
)
def test_a_set_has_one_name(name, expected):
    assert outside_name(name) == expected
    if name.startswith(("dimmed", "rotated")):
        assert outside(name, numbered(1), seed=0) == outside(expected, numbered(1), seed=0)


@pytest.mark.parametrize("name", ["", "rotated", "rotated-", "dimmed", "blurred", "Letters", "mirrored-2", "set.csv"])
def test_an_unknown_name_lists_all_forms(name):
    with pytest.raises(ValueError, match=r"set outside must be") as caught:
        outside(name, numbered(1), seed=0)
    for form in (*OUTSIDE_MADE, *OUTSIDE_LOADED, "rotated-D", "dimmed-F", ".npz", f"got {name!r}"):
        assert form in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dimmed-0", r"above 0 and below 1, .*got 'dimmed-0'"),
        ("dimmed-1", r"above 0 and below 1, .*got 'dimmed-1'"),
        ("dimmed--0.3", r"above 0 and below 1"),
        ("dimmed-nan", r"above 0 and below 1"),
        ("dimmed-half", r"above 0 and below 1, .*got 'dimmed-half'"),
        ("rotated-0", r"angle D in degrees, .*got 'rotated-0' \(a whole turn"),
        ("rotated--720", r"angle D in degrees"),
        ("rotated-inf", r"angle D in degrees"),
        ("rotated-left", r"angle D in degrees"),
    ],
)
def test_what_is_not_a_factor_or_an_angle_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        outside(name, numbered(1), seed=0)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("shuffled-patches", {"inside": numbered(2, 8, 10)}, ValueError, r"sides that 4 divides; got 8x10"),
        ("uniform-noise", {"indices": torch.arange(3)}, ValueError, r"indices must be int64 of shape \(2,\)"),
        ("mirrored", {"inside": numbered(2).pixels}, TypeError, r"inside must be Images; got Tensor"),
        ("uniform-noise", {"seed": 0.5}, TypeError, r"integer"),
    ],
)
def test_unsuitable_arguments_are_named(name, arguments, error, message):
    with pytest.raises(error, match=message):
        outside(name, **({"inside": numbered(2), "seed": 0} | arguments))
