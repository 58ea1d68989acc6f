"""Batch sizes that fit the cache or the GPU, and memory that is kept between batches."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vaecore import VAE, VAEConfig, _batch_sizes, reconstruct, square
from vaecore.toolkit import answers, fit_at_once

CPU = torch.device("cpu")
MANY = 3_000  # numbers in the widest activation


pytestmark = pytest.mark.usefixtures("one_thread")


def test_activations_fill_twice_the_cache_of_each_thread():
    with_one = fit_at_once(1024, CPU)
    assert with_one == 2 * _batch_sizes.core_cache() // 1024
    torch.set_num_threads(3)
    assert fit_at_once(1024, CPU) == 3 * with_one
    assert fit_at_once(1 << 40, CPU) == 1
    assert fit_at_once(4 * 784, torch.device("cuda")) == 262_144
    assert fit_at_once(1 << 20, torch.device("cuda")) == 1024  # a gibibyte


@pytest.mark.parametrize(("text", "size"), [("512K\n", 1 << 19), ("", 1 << 20), ("much", 1 << 20), (None, 1 << 20)])
def test_the_cache_is_read_or_guessed(monkeypatch, tmp_path, text, size):
    if text is not None:
        (tmp_path / "index2").mkdir()
        (tmp_path / "index2" / "size").write_text(text)
    monkeypatch.setattr(_batch_sizes, "_CACHES", tmp_path)  # another machine's
    _batch_sizes.core_cache.cache_clear()
    try:
        assert _batch_sizes.core_cache() == size
    finally:
        _batch_sizes.core_cache.cache_clear()


class Wide(nn.Module):
    """A VAE, and a classifier of three classes, by way of many numbers; it keeps how many rows it is shown."""

    def __init__(self):
        super().__init__()
        self.wide, self.pixels = nn.Linear(3, MANY), nn.Linear(MANY, 20)
        self.shown = []

    def encode(self, images):
        mean = images.flatten(1)[:, :3]
        return mean, torch.zeros_like(mean)

    def decode(self, latents):
        self.shown.append(len(latents))
        return self.pixels(self.wide(latents).relu()).sigmoid().view(-1, 1, 5, 4)

    def forward(self, images):
        return self.decode(images.flatten(1)[:, :3]).flatten(1)[:, :3]


@pytest.mark.parametrize("look", ["module", "plain"])
def test_reconstruct_decodes_as_much_as_fits(look):
    """What cannot be looked into, as it is no torch module, counts as its images.

    A torch module is asked about two latents twice, to see that its answers do not depend on the batch.
    """
    vae, draws = Wide().eval(), fit_at_once(4 * MANY, CPU) // 4
    images, given = torch.rand(10, 1, 5, 4), vae
    if look == "plain":
        given = SimpleNamespace(encode=vae.encode, decode=vae.decode)
    reconstruct(given, images, draws=draws, seed=0)
    rows = [4 * draws, 4 * draws, 2 * draws] if look == "module" else [10 * draws]
    looked = {"module": [1], "plain": []}[look]
    assert vae.shown == looked + rows[:1] + ([2, 2] if look != "plain" else []) + rows[1:]
    assert not any(module._forward_hooks for module in vae.modules())


def test_hooks_are_taken_off_when_decoding_fails():
    class Failing(Wide):
        def decode(self, latents):
            return self.pixels(self.wide(latents[:, :2]))

    vae = Failing().eval()
    with pytest.raises(ValueError, match="decode must take as many latents as encode gives"):
        reconstruct(vae, torch.rand(2, 1, 5, 4), draws=1, seed=0)
    assert not any(module._forward_hooks for module in vae.modules())


@torch.no_grad()
def test_a_classifier_is_asked_in_portions_that_fit_the_cache():
    classifier, fit = Wide().eval(), fit_at_once(4 * MANY, CPU)
    images = torch.rand(2 * fit + 10, 1, 5, 4)
    expected = classifier(images)

    def asked(classifier, rows):
        """How many images at a time it is asked about."""
        shown.clear()
        torch.testing.assert_close(answers(classifier, images[:rows]), expected[:rows])
        return shown

    shown = classifier.shown
    # Two twice, to see that answers do not depend on the batch.
    assert asked(classifier, len(images)) == [1, fit, fit, 10, 2, 2]
    assert asked(classifier, fit + 10) == [fit, 10]  # how wide it is has been seen
    assert asked(classifier.forward, len(images)) == [len(images)]  # of which only the images' size is known
    with torch.enable_grad():
        assert answers(classifier, images).requires_grad
        assert asked(classifier, len(images)) == [len(images)]  # at once, as all is kept for the gradient


@pytest.mark.parametrize(
    ("answer", "got"), [(lambda images: (images,), "tuple"), (torch.sum, r"\(\)"), (lambda _: torch.ones(5), r"\(5,\)")]
)
@pytest.mark.parametrize("count", [2, 300])  # at once, and in portions
def test_what_is_no_logits_is_refused_in_portions_too(answer, got, count):
    with torch.no_grad(), pytest.raises(ValueError, match=rf"images to logits \(\d+, classes\); got {got}"):
        answers(answer, torch.rand(count, 1, 5, 4))


FAULTS = """
import resource
import torch
import vaecore as vc

vc.keep_freed_memory()
torch.set_num_threads(1)
vae, images = vc.VAE(vc.VAEConfig(), (28, 28)).eval(), torch.rand(1_000, 1, 28, 28)
settings = {"draws": 10, "seed": 0, "reduce": vc.squared_error, "precision": "bfloat16"}
for _ in range(3):
    vc.reconstruct(vae, images, **settings)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    vc.reconstruct(vae, images, **settings)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""

MAPPED = """
import ctypes
import torch
import vaecore as vc

class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_int) for name in names.split()]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.mallinfo.restype = ctypes.c_void_p, [ctypes.c_size_t], Info

def mapped():
    before = libc.mallinfo().hblks
    libc.malloc(24 << 20)
    return libc.mallinfo().hblks - before

[getattr(vc, name) for name in vc.__all__]
first = mapped()
vc.keep_freed_memory()
print(first, mapped())
"""
needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the memory of another C library is its own affair"
)


def printed(script):
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
@needs_glibc
def test_memory_that_is_freed_is_not_asked_for_again_where_it_is_kept():
    (pages,) = printed(FAULTS)
    assert pages < 500  # thousands where the memory is given back in between


@pytest.mark.slow
@needs_glibc
def test_the_allocator_is_changed_by_the_call_and_not_by_an_import():
    """A block of 24 MiB is mapped by itself, one system call each, until glibc has learned to keep such."""
    assert printed(MAPPED) == [1, 0]


@pytest.mark.parametrize(("hidden", "widest"), [(8, 784), (9_000, 9_000)])
def test_how_wide_a_model_is_shows_in_layers_that_are_functions_as_well(hidden, widest):
    """The hidden layer of the reference VAE is one; weights count as little as views of them."""
    vae = VAE(VAEConfig(latent_size=3, hidden_size=hidden), (28, 28)).eval()
    fit = _batch_sizes.rows_at_once(vae, "decode", vae.decode, torch.zeros(1, 3), 784)
    assert fit == fit_at_once(4 * widest, CPU)


WITHOUT_COMPILER = """
import sys
import torch
import vaecore as vc

vae, images = vc.VAE(vc.VAEConfig(), (28, 28)).eval(), torch.rand(300, 1, 28, 28)
classifier = vc.Classifier(vc.ClassifierConfig(), (28, 28), 10).eval()
vc.reconstruct(vae, images, draws=2, seed=0)
vc.log_likelihood(vae, images, draws=2, seed=0)
vc.fit_scores(vae, classifier, images, seed=0)(images)
vc.fgsm(classifier, images, torch.zeros(300, dtype=torch.int64), epsilon=0.1)
print(int("torch._dynamo" in sys.modules))
"""


@pytest.mark.slow
def test_to_see_how_wide_a_model_is_imports_no_compiler():
    """Which would take seconds and 180 MiB, in every process."""
    assert printed(WITHOUT_COMPILER) == [0]


def by_numpy(images):
    return torch.from_numpy(images.flatten(1).numpy()[:, :3].copy())


class ByDerivative(nn.Module):
    """Its logits are derivatives, by transforms of functions, whose tensors have no storage."""

    def forward(self, images):
        return torch.func.vmap(torch.func.grad(lambda image: image.square().sum()))(images.flatten(1))[:, :3]


class Scaled(nn.Module):
    """A layer whose weights are computed, many numbers of them, at each call."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 20_000))

    def forward(self, images):
        return images.flatten(1)[:, :3] @ (self.weight * 2)[:, :3]


@pytest.mark.parametrize(
    "model", [by_numpy, ByDerivative().eval(), Scaled().eval()], ids=["numpy", "functional", "weights"]
)
def test_classifiers_of_any_make_are_attacked_and_asked(model):
    images, labels = torch.rand(300, 1, 5, 4), torch.zeros(300, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(answers(model, images), model(images))
    assert len(square(model, images[:12], labels[:12], epsilon=0.1, seed=0, queries=3).success) == 12


def test_weights_that_are_computed_are_not_made_of_images():
    model, row = Scaled().eval(), torch.rand(1, 1, 5, 4)
    with torch.no_grad():
        assert _batch_sizes.rows_at_once(model, "forward", model, row, 20) == fit_at_once(4 * 20, CPU)


def test_a_model_of_half_precision_is_asked_within_its_autocast():
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).bfloat16().eval(), torch.rand(300, 1, 5, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert answers(model, images).shape == (300, 3)


@pytest.mark.parametrize(
    "later",
    [
        lambda table: {**table, "more": table["a"]},
        lambda _: {},
        lambda table: table["a"],
        lambda table: {"a": table["a"][:, :1]},
        lambda table: {"a": table["a"].long()},
    ],
)
def test_results_of_another_form_in_a_later_chunk_are_an_error(later):
    """In place they would be lost, spread out or cut off."""
    chunks = []

    def reduce(images, decoded):
        chunks.append(len(images))
        table = {"a": decoded.flatten(2).mean(dim=2)}
        return table if len(chunks) == 1 else later(table)

    with pytest.raises(ValueError, match="reduce must give the same names, shapes and dtypes for every chunk"):
        reconstruct(Wide().eval(), torch.rand(20, 1, 5, 4), draws=2, seed=0, reduce=reduce, chunk=10)


def test_a_table_keeps_its_names_even_if_it_is_empty():
    vae, images = Wide().eval(), torch.rand(4, 1, 5, 4)
    named = reconstruct(vae, images, draws=1, seed=0, reduce=lambda rows, _: {"": rows.mean(dim=(1, 2, 3)), "k": rows})
    assert [*named] == ["", "k"]
    assert reconstruct(vae, images, draws=1, seed=0, reduce=lambda *_: {}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["function", "in place"])
def test_a_compiled_model_is_not_compiled_again_to_see_how_wide_it_is(way):
    shapes = []

    def backend(graph, given):
        shapes.extend(len(one) for one in given if one.ndim == 4)
        return graph

    model, images = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).eval(), torch.rand(300, 1, 5, 4)
    told = {"backend": backend, "dynamic": False}
    if way == "function":
        model = torch.compile(model, **told)
    else:
        model.compile(**told)
    with torch.no_grad():
        answers(model, images)
    assert sorted(shapes) == [2, 300]  # two rows, to see that answers do not depend on the batch
    attack = square(model, images[:8], torch.zeros(8, dtype=torch.int64), epsilon=0.1, seed=0, queries=2)
    assert not attack.flags.any()
