"""The random numbers: Random123's known answers, the same bits however they are asked for, and the distributions."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.special import ndtri
from scipy.stats import kstest

from vaecore import _noise
from vaecore._noise import image_indices, normal, normal_of, philox, seed_for, signs, uniform, words

WORD, WORD_64 = 0xFFFFFFFF, (1 << 64) - 1
GENERATORS = (words, uniform, signs, normal)


def in_plain_python(counter, key):
    """Philox4x64-10 on Python's integers, after section 3.3 of Salmon et al. (2011)."""
    c0, c1, c2, c3 = counter
    for number in range(10):
        weyl = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
        k0, k1 = ((k + number * step) & WORD_64 for k, step in zip(key, weyl, strict=True))
        high0, low0 = divmod(0xD2E7470EE14C6C93 * c0, 1 << 64)
        high1, low1 = divmod(0xCA5A826395121157 * c2, 1 << 64)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        (
            "0000000000000000 0000000000000000 0000000000000000 0000000000000000",
            "0000000000000000 0000000000000000",
            "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
        ),
        (
            "ffffffffffffffff ffffffffffffffff ffffffffffffffff ffffffffffffffff",
            "ffffffffffffffff ffffffffffffffff",
            "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
        ),
        (
            "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
            "452821e638d01377 be5466cf34e90c6c",
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, answer):
    counter, key, answer = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
    tensors = tuple(torch.from_numpy(np.array([word], dtype=np.uint64).view(np.int64)) for word in counter)
    assert [int(word) % (1 << 64) for word in philox(tensors, tuple(key))] == answer


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    image=st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 50)),
    others=st.sampled_from([[], [0], [2**63 - 1], [-1]]),
    draw=st.integers(0, 5),
    size=st.integers(1, 40),
    data=st.data(),
)
def test_a_word_is_philox_of_seed_image_draw_and_position(seed, image, others, draw, size, data):
    position, blocks = data.draw(st.integers(0, size - 1)), -(-size // 8)
    count = image * blocks + position // 8 + 1
    block = in_plain_python((count & WORD_64, count >> 64, draw, 0), (seed, 0))
    expected = block[position % 8 // 2] >> 32 * (position % 2) & WORD
    # Alone and beside a neighbour numpy makes the words, beside an image far away tensor arithmetic does.
    beside = [other if other >= 0 else max(0, image - 1) for other in others]
    found = words(seed, torch.tensor([image, *beside]), draws=draw + 1, size=size)
    assert found.dtype == torch.int64
    assert found.shape == (1 + len(beside), draw + 1, size)
    assert int(found[0, draw, position]) == expected


def test_the_counter_carries():
    image = (2**64 - 1) // 3  # whose three blocks begin at the last of the counter's first word
    blocks = [in_plain_python((block & WORD_64, block >> 64, 0, 0), (4, 0)) for block in range(2**64, 2**64 + 3)]
    expected = [word >> shift & WORD for block in blocks for word in block for shift in (0, 32)]
    assert words(4, torch.tensor([image]), draws=1, size=24).flatten().tolist() == expected  # by numpy
    assert words(4, torch.tensor([image, 0]), draws=1, size=24)[0, 0].tolist() == expected  # by tensors


@pytest.mark.parametrize(("step", "size"), [(1, 20), (3, 20), (1000, 20), (1, 784), (2**55, 784)])
def test_numpy_and_tensors_give_the_same_words(monkeypatch, step, size):
    indices = torch.tensor([7, 2, 3, 7, 0, 11]) * step
    found = []
    for sparse in (0, 2**64):
        monkeypatch.setattr(_noise, "_SPARSE", sparse if step < 2000 else 0)
        found.append(words(2**63 + 5, indices, draws=3, size=size))
    assert torch.equal(*found)
    alone = [words(2**63 + 5, index, draws=3, size=size) for index in indices.split(1)]
    assert torch.equal(torch.cat(alone), found[0])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), generate=st.sampled_from(GENERATORS), seed=st.integers(0, 2**64 - 1))
def test_the_same_bits_whatever_the_split_order_and_draws(data, generate, seed):
    count, draws, size = (data.draw(st.integers(1, most)) for most in (12, 6, 37))
    most = data.draw(st.sampled_from([20, 2**40]))
    indices = torch.tensor(data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count)))
    whole = generate(seed, indices, draws=draws, size=size)
    assert whole.shape == (count, draws, size)

    order = torch.tensor(data.draw(st.permutations(range(count))))
    chunk = data.draw(st.integers(1, count))
    parts = [generate(seed, part, draws=draws, size=size) for part in torch.split(indices[order], chunk)]
    assert torch.equal(torch.cat(parts), whole[order])

    fewer = data.draw(st.integers(1, draws))
    assert torch.equal(generate(seed, indices, draws=fewer, size=size), whole[:, :fewer])


@pytest.mark.parametrize("generate", GENERATORS)
def test_the_same_bits_on_any_number_of_threads(generate):
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(generate(5, torch.arange(300), draws=10, size=21))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_the_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    for generate in GENERATORS:
        generate(1, torch.arange(3), draws=2, size=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_draws_positions_and_seeds_never_share_their_words():
    images = torch.tensor([0, 1, 2**31, 2**32, 2**32 + 1, 2**33, 2**62])
    found = torch.stack([words(seed, images, draws=9, size=30) for seed in (0, 1, 2**32, 2**32 + 1, 2**64 - 1)])
    # 9,450 words in 2**32 collide about 0.01 times by chance; a shared stream would collide hundreds of times.
    assert found.unique().numel() >= found.numel() - 1


def as_bits(word):
    """The int32 with the bits of an unsigned word."""
    return torch.from_numpy(word.numpy().astype(np.uint32).view(np.int32))


def test_uniform_deviates_lie_inside_the_open_interval_up_to_its_ends(monkeypatch):
    ends = torch.tensor([0, 1, 255, 511, 512, 2**31, WORD - 512, WORD - 255, WORD - 1, WORD])
    monkeypatch.setattr(_noise, "_words", lambda *_: as_bits(ends))
    found = uniform(0, torch.arange(1), draws=1, size=10).double()
    assert found.min() > 0
    assert found.max() < 1
    # The centre of a cell is at most half a cell from the word itself, and the cells are symmetric around one half.
    assert (found - (ends.double() + 0.5) / 2**32).abs().max() < 2.0**-24 * 1.001
    assert torch.equal(found.flip(0)[:2], 1 - found[:2])


def test_normal_deviates_are_the_quantiles_of_their_words():
    cell = 1 << 16
    inner = torch.linspace(cell, 2**32 - cell - 1, 5001, dtype=torch.float64).long()
    word = torch.cat([torch.arange(cell), inner, 2**32 - cell + torch.arange(cell)])
    found = normal_of(as_bits(word))
    assert found.dtype == torch.float32
    found = found.double().numpy()
    exact = ndtri((word.numpy() + 0.5) / 2**32)
    outer = (word.numpy() < cell) | (word.numpy() >= 2**32 - cell)
    np.testing.assert_allclose(found[outer], exact[outer], rtol=2e-7)  # the tails are exact, to float32
    np.testing.assert_allclose(found[~outer], exact[~outer], atol=0.02)
    central = np.abs(exact) < 3
    np.testing.assert_allclose(found[central], exact[central], atol=1e-5)
    assert (np.diff(found) >= 0).all()
    assert found[0] == -found[-1] == np.float32(ndtri(0.5 / 2**32))


@pytest.mark.parametrize(
    ("generate", "distribution", "mean", "variance", "fourth"),
    [(uniform, "uniform", 0.5, 1 / 12, 1 / 80), (normal, "norm", 0.0, 1.0, 3.0), (signs, None, 0.0, 1.0, 1.0)],
)
def test_distributions(generate, distribution, mean, variance, fourth):
    found = generate(11, torch.arange(1000), draws=10, size=100).double().flatten().numpy()
    centred = found - mean
    error = 5 / len(found) ** 0.5  # five standard errors, of unit scale
    assert abs(centred.mean()) < error * variance**0.5
    assert abs((centred**2).mean() - variance) <= error * (fourth - variance**2) ** 0.5
    assert abs((centred**4).mean() - fourth) < error * 10 * fourth
    if distribution is None:
        assert set(found) == {-1.0, 1.0}
    else:
        assert kstest(found[:200_000], distribution).pvalue > 1e-3


def test_the_outer_cells_hold_their_share_of_normal_deviates():
    found = normal(3, torch.arange(2000), draws=10, size=200)
    beyond = int((found.abs() > -ndtri(1 / 65_536)).sum())
    expected = found.numel() * 2 / 65_536  # 122
    assert abs(beyond - expected) < 5 * expected**0.5
    assert found.abs().max() > 4.7  # not heaped at the edge of the tail


def test_neighbouring_images_draws_positions_and_seeds_are_uncorrelated():
    base = normal(0, torch.arange(400), draws=10, size=100)
    others = {
        "image": (base[1:], base[:-1]),
        "draw": (base[:, 1:], base[:, :-1]),
        "position": (base[..., 1:], base[..., :-1]),
        "block": (base[..., 8:], base[..., :-8]),
        "seed": (base, normal(1, torch.arange(400), draws=10, size=100)),
        "far image": (base, normal(0, torch.arange(400) + 2**32, draws=10, size=100)),
        "far seed": (base, normal(1 << 32, torch.arange(400), draws=10, size=100)),
    }
    for name, (left, right) in others.items():
        assert abs(float((left * right).mean())) < 5 / left.numel() ** 0.5, name
        assert abs(float((left.abs() * right.abs()).mean()) - 2 / np.pi) < 5 / left.numel() ** 0.5, name


def test_seeds_follow_from_names():
    assert seed_for("purification/pgd", 0) == 1_278_910_725_694_847_457
    names = [seed_for(name, base) for name in ("a", "b", "1/a", "") for base in (0, 1, 11)]
    assert len(set(names)) == len(names)
    assert all(0 <= seed < 2**64 for seed in names)
    words(max(names), torch.arange(1), draws=1, size=1)  # a seed of any size will do


def test_indices_are_counted_up_or_taken_as_they_are():
    assert image_indices(3, 7, None).tolist() == [7, 8, 9]
    assert image_indices(2, 7, torch.tensor([5, 0])).tolist() == [5, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image_indices(2, -1, None), r"first_index must be 0 or more; got -1"),
        (
            lambda: image_indices(2, 0, torch.tensor([0, 1, 2])),
            r"indices must be int64 of shape \(2,\), .*; got torch.int64 \(3,\)",
        ),
        (lambda: image_indices(2, 0, torch.tensor([0.0, 1.0])), r"indices must be int64 .*; got torch.float32 \(2,\)"),
        (lambda: image_indices(2, 0, torch.tensor([0, -1])), r"indices must be int64 of shape \(2,\), 0 and up"),
        (lambda: words(0, torch.arange(2), draws=0, size=1), r"1 or more; got draws=0, size=1"),
        (lambda: normal(0, torch.arange(2), draws=1, size=0), r"1 or more; got draws=1, size=0"),
        (lambda: uniform(-1, torch.arange(2), draws=1, size=1), r"seed must be from 0 to 2\*\*64 - 1; got -1"),
        (lambda: signs(2**64, torch.arange(2), draws=1, size=1), r"seed must be from 0 to 2\*\*64 - 1; got 184467"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
