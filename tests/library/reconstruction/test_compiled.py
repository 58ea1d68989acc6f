"""Decoding and reduction as one, compiled: the same results, and a GPU that is never waited for."""

import copy
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from vaecore import VAE, VAEConfig, _noise, reconstruct, squared_error
from vaecore.reconstruction import _decode, _reconstruct  # for what a machine without GPU does not show
from vaecore.toolkit import fit_at_once, normal

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SIDES = (5, 4)
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), reason="no C++ compiler here"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def extremes(images, reconstructions):
    low, high = reconstructions.flatten(2).aminmax(dim=2)
    return {"low": low, "high": high, "own": images.flatten(1).sum(dim=1)}


def test_squared_error_is_the_mean_over_pixels(some_images):
    images, reconstructions = some_images(3), torch.rand(3, 2, 1, *SIDES)
    kept = reconstructions.clone()
    errors = squared_error(images, reconstructions)
    expected = (reconstructions.double() - images[:, None].double()).square().mean(dim=(2, 3, 4))
    assert_close(errors.double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(reconstructions, kept)


# Compiled


def plain_and_compiled(vae, images, *, chunk=None, **setting):
    setting = {"draws": 3, "seed": 4} | setting
    return reconstruct(vae, images, **setting), reconstruct(vae, images, **setting, compiled=True, chunk=chunk)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_compiled_results_are_the_same(tiny_vae, some_images, precision, error):
    vae, images = tiny_vae(hidden=24), some_images(7)
    for reduce, chunk in ((squared_error, 3), (extremes, 3), (None, None)):
        plain, compiled = plain_and_compiled(vae, images, reduce=reduce, chunk=chunk, precision=precision)
        assert_close(compiled, plain, rtol=1e-6, atol=error)
    assert compiled.dtype == torch.float32


@pytest.mark.slow
@needs_compiler
def test_what_reduces_computes_in_float32_whatever_decodes(tiny_vae, some_images):
    weight = torch.randn(20, 20, generator=torch.Generator().manual_seed(2))

    def project(_, reconstructions):
        product = reconstructions.flatten(2) @ weight
        assert product.dtype == torch.float32
        return product

    plain, compiled = plain_and_compiled(tiny_vae(), some_images(4), reduce=project, precision="bfloat16")
    assert_close(compiled, plain, rtol=0, atol=0.1)


@pytest.mark.slow
@needs_compiler
def test_modules_that_are_no_vae_of_ours_are_compiled_too(some_images):
    vae = SimpleNamespace(encode=lambda images: (images.flatten(1)[:, :3], torch.zeros(len(images), 3)))
    layer = nn.Linear(3, 20).eval()
    vae.decode = lambda latents: layer(latents).sigmoid().view(-1, 1, *SIDES)
    plain, compiled = plain_and_compiled(vae, some_images(3), reduce=squared_error)
    assert_close(compiled, plain, rtol=0, atol=1e-6)


@pytest.mark.slow
@needs_compiler
def test_more_ways_of_use_than_pytorch_compiles_one_function_for(tiny_vae, some_images):
    torch.compiler.reset()  # or what other tests had compiled would count, and be given up without a word
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for hidden in (5, 6, 7, 8):
            plain, compiled = plain_and_compiled(tiny_vae(hidden=hidden), some_images(2), reduce=squared_error)
            assert_close(compiled, plain, rtol=0, atol=1e-6)


class Logits(VAE):
    def decode(self, latents):
        return 9 * self.decode_logits(latents).view(-1, *self.image_shape)


def test_what_decodes_no_images_is_refused_in_compiled_decoding_too(tiny_vae, some_images):
    with pytest.raises(ValueError, match=r"reconstructions must lie in \[0, 1\].*end `decode` with a sigmoid"):
        reconstruct(tiny_vae(kind=Logits), some_images(2), draws=2, seed=0, reduce=squared_error, compiled=True)


@pytest.mark.parametrize(
    ("precision", "count", "chunk", "sizes"),
    [
        ("float32", 30, 8, [8, 8, 8, 6]),
        ("float32", 21, 8, [7, 7, 7]),
        ("float32", 10, None, [4, 4, 2]),  # where four images fit the cache
        ("bfloat16", 10, None, [5, 5]),  # and eight
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_compiled_chunks_are_of_one_size_and_fit_the_cache(monkeypatch, precision, count, chunk, sizes):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    wide, seen = 3_000, []
    draws = 2 if chunk else fit_at_once(4 * wide, CPU) // 4

    class Wide(nn.Module):
        """Decodes to 20 numbers by way of 3,000."""

        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Linear(3, wide), nn.Linear(wide, 20)

        def encode(self, images):
            return images.flatten(1)[:, :3], torch.zeros(len(images), 3)

        def decode(self, latents):
            return self.narrow(self.wide(latents)).sigmoid().view(-1, 1, *SIDES)

    def reduce(rows, reconstructions):
        seen.append(len(rows))
        assert reconstructions.dtype == torch.float32
        return reconstructions.mean(dim=(2, 3, 4))

    setting = {"precision": precision, "chunk": chunk, "reduce": reduce}
    images = torch.rand(count, 1, *SIDES)
    reconstruct(Wide().eval(), images, draws=draws, seed=0, compiled=True, **setting)
    assert seen == sizes


# On GPUs, by what a machine without one shows: private functions stand for the GPU's, or take what it would give


def test_a_gpu_is_not_waited_for(monkeypatch):
    """On tensors without data, which cannot be looked at: what the host asks of one raises."""
    ends = []
    monkeypatch.setattr(
        _reconstruct._Looks, "end", lambda looks: ends.append((looks.finite.shape, looks.extremes.shape))
    )
    monkeypatch.setitem(_reconstruct._AT_ONCE, "cuda", (2_000, 6_000))
    for check in ("check_images", "image_indices"):  # before the first image is encoded
        monkeypatch.setattr(_reconstruct, check, lambda first, *_: first)
    monkeypatch.setattr(_decode, "check_module", lambda *_: None)  # once for each VAE
    monkeypatch.setattr(_noise, "_kernel", lambda: None)  # Triton takes no such tensors
    _noise._normal_tables.cache_clear()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), CUDA:
            vae = VAE(VAEConfig(latent_size=3, hidden_size=24), SIDES).eval()
            images = torch.empty(4_500, 1, *SIDES)
            errors = reconstruct(vae, images, draws=3, seed=0, reduce=squared_error)
            indexed = reconstruct(vae, images, draws=3, seed=0, indices=torch.arange(4_500))
    finally:
        _noise._normal_tables.cache_clear()
    assert (errors.device.type, errors.shape) == ("cuda", (4_500, 3))
    assert indexed.shape == (4_500, 3, 1, *SIDES)
    assert ends == [((), (2,))] * 2


@pytest.mark.parametrize(
    ("finite", "low", "message"),
    [(False, torch.nan, "posterior must be finite"), (True, -1.0, r"must lie in \[0, 1\]"), (True, torch.nan, "NaN")],
)
def test_what_was_not_looked_at_is_noticed_in_the_end(finite, low, message):
    def fail(finite, low):
        with looks:
            looks.finite, looks.extremes = torch.tensor(finite), torch.tensor([low, 1.0])
            raise ArithmeticError  # what may have come of it

    looks = _reconstruct._Looks()
    with pytest.raises(ValueError, match=message):
        fail(finite, low)
    looks.end()  # once
    with pytest.raises(ArithmeticError):
        fail(True, 0.0)


def test_what_was_not_looked_at_is_kept_as_one():
    """On a device that stands for a GPU, as its numbers can't be looked at either."""
    looks = _reconstruct._Looks()
    for _ in range(3):
        looks.at_images(torch.empty(4, 2, 1, *SIDES, device="meta"))
        looks.at_posterior(torch.empty(4, 3, device="meta"), torch.empty(4, 3, device="meta"))
    assert looks.extremes.shape == (2,)
    assert looks.finite.shape == ()


def test_the_host_is_two_portions_ahead_at_most(monkeypatch):
    waited, pace = [], _reconstruct._Pace()
    events = iter(range(9))

    def event():
        number = next(events)
        return SimpleNamespace(synchronize=lambda: waited.append(number))

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(record_event=event))
    for portion in range(5):
        pace.after_portion(CUDA)
        assert waited == [*range(max(0, portion - 1))]
    pace.after_portion(CPU)
    assert waited == [0, 1, 2]


# On a GPU, where PyTorch and Triton warn of what they themselves do, and advise TF32 where float32 is asked for

OTHERS_WARN = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:TensorFloat32 tensor cores", "ignore:The CUDA Graph is empty"
)


@needs_gpu
@OTHERS_WARN
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-6), ("tf32", 1e-3), ("bfloat16", 1e-2)])
@pytest.mark.parametrize(("count", "draws"), [(301, 10), (7, 1), (3, 33)])
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_errors_are_those_of_double_precision(compiled, precision, error, count, draws):
    generator = torch.Generator().manual_seed(0)
    vae = VAE(VAEConfig(), (28, 28)).eval().requires_grad_(requires_grad=False)
    for parameter in vae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (1.5 / parameter.shape[-1] ** 0.5)
    images = torch.rand(count, 1, 28, 28, generator=generator)
    exact, noise = copy.deepcopy(vae).double(), normal(4, torch.arange(count), draws=draws, size=20).double()
    with torch.no_grad():
        mean, log_variance = exact.encode(images.double())
        decoded = exact.decode((mean[:, None] + (log_variance / 2).exp()[:, None] * noise).flatten(0, 1))
        expected = squared_error(images.double(), decoded.view(count, draws, 1, 28, 28))
    setting = {"draws": draws, "seed": 4, "reduce": squared_error, "precision": precision, "compiled": compiled}
    assert (reconstruct(vae.to(CUDA), images.to(CUDA), **setting).cpu() - expected).abs().max() < error


@needs_gpu
@OTHERS_WARN
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_nothing_is_waited_for(monkeypatch, compiled):
    """But before the first image is encoded and after the last."""
    monkeypatch.setattr(_reconstruct._Looks, "end", lambda _: None)
    monkeypatch.setattr(_reconstruct, "check_images", lambda images: images)
    vae, images = VAE(VAEConfig(), (28, 28)).to(CUDA).eval(), torch.rand(5_000, 1, 28, 28, device=CUDA)
    setting = {"draws": 10, "seed": 0, "reduce": squared_error, "precision": "bfloat16", "compiled": compiled}
    for _ in range(3):  # compiled, and recorded
        reconstruct(vae, images, **setting)
    torch.cuda.set_sync_debug_mode("error")
    try:
        reconstruct(vae, images, **setting)
    finally:
        torch.cuda.set_sync_debug_mode("default")
