"""The random numbers: Random123's known answers, the same bits however they are asked for, and the distributions."""

import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.special import ndtri
from scipy.stats import kstest

from vaecore import _noise
from vaecore.toolkit import image_indices, normal, normal_of, philox, seed_for, signs, uniform, words

WORD, WORD_64 = 0xFFFFFFFF, (1 << 64) - 1
GENERATORS = (words, uniform, signs, normal)
FAR = torch.tensor([2**62])  # an image beside which numpy would make too many words: tensor arithmetic makes them


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
    drawn = words(seed, torch.tensor([image, *beside]), draws=draw + 1, size=size)
    assert drawn.dtype == torch.int64
    assert drawn.shape == (1 + len(beside), draw + 1, size)
    assert int(drawn[0, draw, position]) == expected


def test_the_counter_carries():
    image = torch.tensor([(2**64 - 1) // 3])  # whose three blocks begin at the last of the counter's first word
    blocks = [in_plain_python((block & WORD_64, block >> 64, 0, 0), (4, 0)) for block in range(2**64, 2**64 + 3)]
    expected = [word >> shift & WORD for block in blocks for word in block for shift in (0, 32)]
    assert words(4, image, draws=1, size=24).flatten().tolist() == expected  # by numpy
    assert words(4, torch.cat([image, torch.tensor([0])]), draws=1, size=24)[0, 0].tolist() == expected  # by tensors


@pytest.mark.parametrize(("step", "size"), [(1, 20), (3, 20), (1000, 20), (1, 784), (2**55, 784)])
def test_numpy_and_tensors_give_the_same_words(step, size):
    indices = torch.tensor([7, 2, 3, 7, 0, 11]) * step
    together = words(2**63 + 5, indices, draws=3, size=size)
    assert torch.equal(words(2**63 + 5, torch.cat([indices, FAR]), draws=3, size=size)[:-1], together)
    alone = [words(2**63 + 5, index, draws=3, size=size) for index in indices.split(1)]
    assert torch.equal(torch.cat(alone), together)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), generate=st.sampled_from(GENERATORS), seed=st.integers(0, 2**64 - 1))
def test_the_same_bits_whatever_the_split_order_and_draws(data, generate, seed):
    count, draws, size = (data.draw(st.integers(1, most)) for most in (12, 6, 37))
    most = data.draw(st.sampled_from([20, 2**40]))
    indices = torch.tensor(data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count)))
    whole = generate(seed, indices, draws=draws, size=size)
    assert whole.shape == (count, draws, size)

    order, chunk = torch.tensor(data.draw(st.permutations(range(count)))), data.draw(st.integers(1, count))
    parts = [generate(seed, part, draws=draws, size=size) for part in torch.split(indices[order], chunk)]
    assert torch.equal(torch.cat(parts), whole[order])

    fewer = data.draw(st.integers(1, draws))
    assert torch.equal(generate(seed, indices, draws=fewer, size=size), whole[:, :fewer])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("generate", GENERATORS)
def test_the_same_bits_on_any_number_of_threads_and_no_global_random_state(generate):
    before, drawn = torch.get_rng_state(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        drawn.append(generate(5, torch.arange(300), draws=10, size=21))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_images_draws_positions_and_seeds_never_share_their_words():
    images = torch.tensor([0, 1, 2**31, 2**32, 2**32 + 1, 2**33, 2**62])
    drawn = torch.stack([words(seed, images, draws=9, size=30) for seed in (0, 1, 2**32, 2**32 + 1, 2**64 - 1)])
    # 9,450 words in 2**32 collide about 0.01 times by chance; a shared stream would collide hundreds of times.
    assert drawn.unique().numel() >= drawn.numel() - 1


# Distributions


def test_uniform_deviates_are_the_centres_of_cells_of_the_open_interval():
    """The upper 23 bits of a word choose the cell: exactly, as each centre is a float32, and inside at both ends."""
    at = {"indices": torch.arange(5000), "draws": 4, "size": 30}
    cells = words(3, **at) >> 9
    assert torch.equal(uniform(3, **at).double(), (cells.double() + 0.5) / 2**23)
    assert cells.min() < 100
    assert cells.max() > 2**23 - 100
    ends = torch.tensor([0.5, 2**23 - 0.5], dtype=torch.float64) / 2**23
    assert torch.equal(ends.float().double(), ends)
    assert 0 < ends[0] == 1 - ends[1]


def test_normal_deviates_are_the_quantiles_of_their_words():
    cell = 1 << 16
    inner = torch.linspace(cell, 2**32 - cell - 1, 5001, dtype=torch.float64).long()
    word = torch.cat([torch.arange(cell), inner, 2**32 - cell + torch.arange(cell)])
    deviates = normal_of(torch.from_numpy(word.numpy().astype(np.uint32).view(np.int32)))
    assert deviates.dtype == torch.float32
    deviates = deviates.double().numpy()
    exact = ndtri((word.numpy() + 0.5) / 2**32)
    outer = (word.numpy() < cell) | (word.numpy() >= 2**32 - cell)
    np.testing.assert_allclose(deviates[outer], exact[outer], rtol=2e-7)  # the tails are exact, to float32
    np.testing.assert_allclose(deviates[~outer], exact[~outer], atol=0.02)
    central = np.abs(exact) < 3
    np.testing.assert_allclose(deviates[central], exact[central], atol=1e-5)
    assert (np.diff(deviates) >= 0).all()
    assert deviates[0] == -deviates[-1] == np.float32(ndtri(0.5 / 2**32))


def test_normal_deviates_are_those_of_their_words():
    at = {"indices": torch.arange(50), "draws": 4, "size": 30}
    signed = torch.from_numpy(words(3, **at).numpy().astype(np.uint32).view(np.int32))
    assert torch.equal(normal(3, **at), normal_of(signed.flatten()).view(signed.shape))


@pytest.mark.parametrize(
    ("generate", "distribution", "mean", "variance", "fourth"),
    [(uniform, "uniform", 0.5, 1 / 12, 1 / 80), (normal, "norm", 0.0, 1.0, 3.0), (signs, None, 0.0, 1.0, 1.0)],
)
def test_distributions(generate, distribution, mean, variance, fourth):
    drawn = generate(11, torch.arange(1000), draws=10, size=100).double().flatten().numpy()
    centred = drawn - mean
    error = 5 / len(drawn) ** 0.5  # five standard errors, of unit scale
    assert abs(centred.mean()) < error * variance**0.5
    assert abs((centred**2).mean() - variance) <= error * (fourth - variance**2) ** 0.5
    assert abs((centred**4).mean() - fourth) < error * 10 * fourth
    if distribution is None:
        assert set(drawn) == {-1.0, 1.0}
    else:
        assert kstest(drawn[:200_000], distribution).pvalue > 1e-3


def test_the_outer_cells_hold_their_share_of_normal_deviates():
    drawn = normal(3, torch.arange(2000), draws=10, size=200)
    beyond = int((drawn.abs() > -ndtri(1 / 65_536)).sum())
    expected = drawn.numel() * 2 / 65_536  # 122
    assert abs(beyond - expected) < 5 * expected**0.5
    assert drawn.abs().max() > 4.7  # not heaped at the edge of the tail


def test_neighbouring_images_draws_positions_and_seeds_are_uncorrelated():
    images = torch.arange(400)
    base = normal(0, images, draws=10, size=100)
    others = {
        "image": (base[1:], base[:-1]),
        "draw": (base[:, 1:], base[:, :-1]),
        "position": (base[..., 1:], base[..., :-1]),
        "block": (base[..., 8:], base[..., :-8]),
        "seed": (base, normal(1, images, draws=10, size=100)),
        "far image": (base, normal(0, images + 2**32, draws=10, size=100)),
        "far seed": (base, normal(1 << 32, images, draws=10, size=100)),
    }
    for name, (left, right) in others.items():
        assert abs(float((left * right).mean())) < 5 / left.numel() ** 0.5, name
        assert abs(float((left.abs() * right.abs()).mean()) - 2 / np.pi) < 5 / left.numel() ** 0.5, name


# Seeds and indices


def test_seeds_follow_from_names():
    assert seed_for("purification/pgd", 0) == 1_278_910_725_694_847_457
    seeds = [seed_for(name, base) for name in ("a", "b", "1/a", "") for base in (0, 1, 11)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    words(max(seeds), torch.arange(1), draws=1, size=1)  # a seed of any size will do


def test_indices_are_counted_up_or_taken_as_they_are():
    assert image_indices(3, 7, None).tolist() == [7, 8, 9]
    assert image_indices(2, 7, torch.tensor([5, 0])).tolist() == [5, 0]


TWO = torch.arange(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image_indices(2, -1, None), r"first_index must be 0 or more, .*; got -1"),
        (lambda: image_indices(2, 2**63 - 1, None), r"all indices below 2\*\*63; got 9223372036854775807"),
        (lambda: seed_for("a", -1), r"seed must be from 0 to 2\*\*64 - 1; got -1"),
        (lambda: image_indices(2, 0, torch.arange(3)), r"int64 of shape \(2,\), .*; got torch.int64 \(3,\)"),
        (lambda: image_indices(2, 0, torch.tensor([0.0, 1.0])), r"indices must be int64 .*; got torch.float32 \(2,\)"),
        (lambda: image_indices(2, 0, torch.tensor([0, -1])), "indices must be 0 or more; got -1"),
        (lambda: words(0, TWO, draws=0, size=1), "draws must be 1 or more; got 0"),
        (lambda: normal(0, TWO, draws=1, size=0), "size must be 1 or more; got 0"),
        (lambda: uniform(-1, TWO, draws=1, size=1), r"seed must be from 0 to 2\*\*64 - 1; got -1"),
        (lambda: signs(2**64, TWO, draws=1, size=1), r"seed must be from 0 to 2\*\*64 - 1; got 184467"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The kernel for GPUs

INTERPRETED = """
import torch
from vaecore import _noise
from vaecore._noise_kernel import words_by_kernel

for seed in (0, 1, 2**32, 2**63, 2**64 - 1, 1234567890123456789):
    for indices, draws, blocks in (
        (torch.arange(300), 1, 1),
        (torch.arange(300), 3, 3),  # in more than one program
        (torch.tensor([5, 2**62 + 3, 2**63 - 1, 0]), 2, 98),
    ):
        expected = _noise._words_by_tensors(seed, indices, draws, blocks)
        assert torch.equal(words_by_kernel(_noise._signed(seed), indices, draws, blocks), expected), (seed, draws)
print("right")
"""

BUILT = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vaecore._noise_kernel import words_kernel

for architecture in (75, 80, 90):
    for seed in ("i32", "i64"):
        types = {"indices": "*i64", "words": "*i64", "seed": seed, "total": "i32", "draws": "i32", "blocks": "i32"}
        source = ASTSource(words_kernel, types | {"COUNTERS": "constexpr"}, {"COUNTERS": 256})
        assert triton.compile(source, GPUTarget("cuda", architecture, 32)).asm["cubin"]
print("built")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said", "variables"), [(INTERPRETED, "right", {"TRITON_INTERPRET": "1"}), (BUILT, "built", {})]
)
def test_the_kernel_is_right_in_triton_s_interpreter_and_is_built(script, said, variables, tmp_path):
    pytest.importorskip("triton", reason="Triton comes with PyTorch for Linux and GPUs only")
    if variables and torch.cuda.is_available():
        pytest.skip("where a GPU is, the kernel itself is tested")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), **variables}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    assert done.stdout.strip() == said, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("way", ["kernel", "tensors"])
@pytest.mark.parametrize("generate", GENERATORS)
def test_a_gpu_gives_the_bits_of_a_cpu(monkeypatch, generate, way):
    if way == "tensors":
        monkeypatch.setattr(_noise, "_kernel", lambda: None)
    else:
        assert _noise._kernel() is not None
    for indices in (torch.arange(3, 300), torch.tensor([7, 2**63 - 1, 0, 7])):
        for seed, draws, size in ((0, 1, 1), (2**64 - 1, 3, 20), (5, 2, 784)):
            expected = generate(seed, indices, draws=draws, size=size)
            assert torch.equal(generate(seed, indices.cuda(), draws=draws, size=size).cpu(), expected)


def test_without_triton_the_same_words_come_from_tensors_and_a_warning_says_so(monkeypatch):
    _noise._kernel.cache_clear()
    monkeypatch.setitem(sys.modules, "vaecore._noise_kernel", None)
    try:
        with pytest.warns(RuntimeWarning, match=r"some 400 launches.*install triton and a C compiler"):
            assert _noise._kernel() is None
        assert _noise._kernel() is None  # once
    finally:
        _noise._kernel.cache_clear()
