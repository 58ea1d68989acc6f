"""The random numbers: Random123's known answers, the same bits however they are asked for, and the distributions."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.special import ndtri
from scipy.stats import kstest

from vaecore import _noise
from vaecore._noise import image_indices, normal, philox, seed_for, signs, uniform, words

WORD = 0xFFFFFFFF
GENERATORS = (words, uniform, signs, normal)


def in_plain_python(counter, key):
    """Philox4x32-10 on Python's integers, after section 3.3 of Salmon et al. (2011)."""
    c0, c1, c2, c3 = counter
    for number in range(10):
        k0, k1 = ((k + number * weyl) & WORD for k, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True))
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, answer):
    counter, key, answer = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
    tensors = tuple(torch.tensor([word]) for word in counter)
    assert [int(word) for word in philox(tensors, tuple(key))] == answer


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1), image=st.integers(0, 2**63 - 1), draw=st.integers(0, 5), position=st.integers(0, 9)
)
def test_a_word_is_philox_of_seed_image_draw_and_position(seed, image, draw, position):
    block = in_plain_python((position // 4, draw, image & WORD, image >> 32), (seed & WORD, seed >> 32))
    found = words(seed, torch.tensor([image]), draws=draw + 1, size=position + 1)
    assert found.dtype == torch.int64
    assert found.shape == (1, draw + 1, position + 1)
    assert int(found[0, draw, position]) == block[position % 4]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), generate=st.sampled_from(GENERATORS), seed=st.integers(0, 2**64 - 1))
def test_the_same_bits_whatever_the_split_order_draws_and_size(data, generate, seed):
    count, draws, size = (data.draw(st.integers(1, most)) for most in (12, 6, 37))
    indices = torch.tensor(data.draw(st.lists(st.integers(0, 2**40), min_size=count, max_size=count)))
    whole = generate(seed, indices, draws=draws, size=size)
    assert whole.shape == (count, draws, size)

    order = torch.tensor(data.draw(st.permutations(range(count))))
    chunk = data.draw(st.integers(1, count))
    parts = [generate(seed, part, draws=draws, size=size) for part in torch.split(indices[order], chunk)]
    assert torch.equal(torch.cat(parts), whole[order])

    fewer, shorter = data.draw(st.integers(1, draws)), data.draw(st.integers(1, size))
    assert torch.equal(generate(seed, indices, draws=fewer, size=shorter), whole[:, :fewer, :shorter])


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


def test_uniform_deviates_lie_inside_the_open_interval_up_to_its_ends(monkeypatch):
    ends = torch.tensor([0, 1, 255, 511, 512, 2**31, WORD - 512, WORD - 255, WORD - 1, WORD])
    monkeypatch.setattr(_noise, "words", lambda *_, **__: ends)
    found = uniform(0, torch.arange(1), draws=1, size=10).double()
    assert found.min() > 0
    assert found.max() < 1
    # The centre of a cell is at most half a cell from the word itself, and the cells are symmetric around one half.
    assert (found - (ends.double() + 0.5) / 2**32).abs().max() < 2.0**-24 * 1.001
    assert torch.equal(found.flip(0)[:2], 1 - found[:2])


def test_normal_deviates_are_the_quantiles_of_their_words(monkeypatch):
    cell = 1 << 16
    inner = torch.linspace(cell, 2**32 - cell - 1, 5001, dtype=torch.float64).long()
    word = torch.cat([torch.arange(cell), inner, 2**32 - cell + torch.arange(cell)])
    monkeypatch.setattr(_noise, "words", lambda *_, **__: word)
    found = normal(0, torch.arange(1), draws=1, size=1)
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
        "block": (base[..., 4:], base[..., :-4]),
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
