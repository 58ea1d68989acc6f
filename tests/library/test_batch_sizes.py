"""How much is decoded at once, and in which arithmetic: neither leaves anything behind."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from vaecore import _batch_sizes as _machine
from vaecore import reconstruct, squared_error
from vaecore._precision import check_precision, computing_in
from vaecore.reconstruction import _compiled

CPU = torch.device("cpu")


class Wide(nn.Module):
    """Decodes to 20 numbers by way of 300."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(3, 300), nn.Linear(300, 20)
        self.decoded = []

    def encode(self, images):
        mean = images.flatten(1)[:, :3]
        return mean, torch.zeros_like(mean)

    def decode(self, latents):
        self.decoded.append(len(latents))
        return self.narrow(self.wide(latents).relu()).sigmoid().view(-1, 1, 5, 4)


def widest(vae, latents, least):
    return _machine.widest_activation(vae, lambda: vae.decode(latents), least)


def test_the_widest_activation_is_found_and_hooks_are_taken_off():
    vae = Wide().eval()
    assert widest(vae, torch.zeros(1, 3), least=20) == 300
    assert widest(vae, torch.zeros(1, 3), least=400) == 400
    assert not any(module._forward_hooks for module in vae.modules())
    assert vae.decoded == [1, 1]


def test_what_cannot_be_looked_into_counts_as_its_images():
    class Plain:
        def decode(self, latents):
            raise AssertionError

    assert widest(Plain(), torch.zeros(1, 3), least=20) == 20
    assert widest(Wide().train(), torch.zeros(1, 3), least=20) == 20


def test_hooks_are_taken_off_when_decoding_fails():
    vae = Wide().eval()
    with pytest.raises(RuntimeError):
        widest(vae, torch.zeros(1, 7), least=20)
    assert not any(module._forward_hooks for module in vae.modules())


class Counting(nn.Module):
    """A classifier by 300 numbers, which keeps count of what it is shown."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow, self.shown = nn.Linear(20, 300), nn.Linear(300, 3), []

    def forward(self, images):
        self.shown.append(len(images))
        return self.narrow(self.wide(images.flatten(1)).relu())


def test_a_classifier_is_asked_in_portions_that_fit_the_cache(monkeypatch):
    monkeypatch.setattr(_machine, "core_cache", lambda: 4 * 300 * 60)  # twice that holds 120 images, by one thread
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    classifier, images = Counting().eval(), torch.rand(250, 1, 5, 4)
    expected = classifier(images)
    classifier.shown.clear()
    with torch.no_grad():
        found = _machine.answers(classifier, images)
        torch.testing.assert_close(found, expected)
        assert classifier.shown == [1, 120, 120, 10]
        torch.testing.assert_close(_machine.answers(classifier, images[:130]), expected[:130])
        assert classifier.shown[4:] == [120, 10]  # how wide it is has been seen
        plain = _machine.answers(classifier.forward, images)  # of which only the images' size is known
        torch.testing.assert_close(plain, expected)
        assert classifier.shown[6:] == [250]
    assert _machine.answers(classifier, images).requires_grad  # at once, as all is kept for the gradient
    assert classifier.shown[7:] == [250]


@pytest.mark.parametrize(
    ("answer", "got"), [(lambda images: (images,), "tuple"), (torch.sum, r"\(\)"), (lambda _: torch.ones(5), r"\(5,\)")]
)
@pytest.mark.parametrize("count", [2, 300])  # at once, and in portions
def test_what_is_no_logits_is_refused_in_portions_too(answer, got, count):
    with torch.no_grad(), pytest.raises(ValueError, match=rf"images to logits \(\d+, classes\); got {got}"):
        _machine.answers(answer, torch.rand(count, 1, 5, 4))


def test_activations_fill_twice_the_cache_of_each_thread(monkeypatch):
    monkeypatch.setattr(_machine, "core_cache", lambda: 1 << 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert _machine.fit_at_once(4 * 1024, CPU) == 3 * 512
    assert _machine.fit_at_once(1 << 30, CPU) == 1
    assert _machine.fit_at_once(4 * 784, torch.device("cuda")) == 65_536
    assert _machine.fit_at_once(1 << 20, torch.device("cuda")) == 1024  # a gibibyte


def test_reconstruct_decodes_as_much_as_fits(monkeypatch):
    monkeypatch.setattr(_machine, "core_cache", lambda: 4 * 300 * 6)  # twice that holds twelve latents, by one thread
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    vae = Wide().eval()
    reconstruct(vae, torch.rand(10, 1, 5, 4), draws=3, seed=0)
    assert vae.decoded == [1, 12, 12, 6]


@pytest.mark.parametrize(("precision", "chunks"), [("float32", [4, 4, 2]), ("bfloat16", [5, 5])])
def test_what_is_compiled_in_half_precision_takes_half_the_cache(monkeypatch, precision, chunks):
    monkeypatch.setattr(_machine, "core_cache", lambda: 4 * 300 * 6)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    seen = []

    def decode_and_reduce(_vae, rows, *_):
        seen.append(len(rows))
        return torch.zeros(len(rows), 3)

    monkeypatch.setattr(_compiled, "decode_and_reduce", decode_and_reduce)
    told = {"draws": 3, "seed": 0, "reduce": squared_error, "precision": precision}
    reconstruct(Wide().eval(), torch.rand(10, 1, 5, 4), **told, compiled=True)
    assert seen == chunks


FAULTS = """
import resource, sys
import torch
from vaecore import VAE, VAEConfig, reconstruct, squared_error

torch.set_num_threads(1)
vae, images = VAE(VAEConfig(), (28, 28)).eval(), torch.rand(1_000, 1, 28, 28)
told = {"draws": 10, "seed": 0, "reduce": squared_error, "precision": "bfloat16"}
for _ in range(3):
    reconstruct(vae, images, **told)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    reconstruct(vae, images, **told)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the memory of another C library is its own affair")
def test_memory_that_is_freed_is_not_asked_for_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=False)  # noqa: S603
    assert int(done.stdout) < 500, done.stderr  # pages; thousands where the memory is given back in between


@pytest.mark.parametrize("text", ["1024K\n", "", "much"])
def test_the_cache_is_read_or_guessed(monkeypatch, tmp_path, text):
    (tmp_path / "index2").mkdir()
    (tmp_path / "index2" / "size").write_text(text)
    monkeypatch.setattr(_machine, "_CACHES", tmp_path)
    _machine.core_cache.cache_clear()
    found = _machine.core_cache()
    _machine.core_cache.cache_clear()
    assert found == 1 << 20


def test_bfloat16_is_computed_in_within_and_not_after():
    left, right = torch.rand(3, 4), torch.rand(4, 5)
    with computing_in("bfloat16", CPU):
        assert (left @ right).dtype == torch.bfloat16
    with computing_in("float32", CPU):
        assert (left @ right).dtype == torch.float32
    assert (left @ right).dtype == torch.float32


def test_tf32_is_switched_on_within_and_put_back():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]

    def within(precision):
        with computing_in(precision, torch.device("cuda")):
            assert [backend.allow_tf32 for backend in backends] == [precision == "tf32"] * 2
            raise KeyError

    for start in (False, True):
        for precision in ("tf32", "float32"):
            for backend in backends:
                backend.allow_tf32 = start
            with pytest.raises(KeyError):
                within(precision)
            assert [backend.allow_tf32 for backend in backends] == [start, start]
    for backend, was in zip(backends, before, strict=True):
        backend.allow_tf32 = was


def test_a_precision_that_is_not_to_be_had_is_refused():
    with pytest.raises(ValueError, match="precision must be 'float32', 'tf32' or 'bfloat16'; got 'half'"):
        check_precision("half", CPU)
    with pytest.raises(ValueError, match="precision 'tf32' takes a CUDA GPU; the images are on the cpu"):
        check_precision("tf32", CPU)
    check_precision("tf32", torch.device("cuda"))
