"""Attacks of other libraries under one signature: (classifier, images, classes) and settings in, images out.

The extra `peers` installs the libraries; `load` imports them. `classes` are labels, to be left, but for the L-BFGS
attack, where they are targets. Images are in [0, 1], and attacked all at once unless there is a `batch`.
"""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

from vaecore import Autoencoder
from vaecore.toolkit import Norm, Progress

LIBRARIES = ("advertorch", "foolbox", "torchattacks")


def load(package: str) -> ModuleType:
    """Import a peer; raises ImportError that says how to get it."""
    try:
        with _torch_as_advertorch_knows_it(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # foolbox imports by a name that scipy deprecates
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} cannot be imported: {error} (uv pip install -e '.[peers]')") from error


@contextmanager
def _torch_as_advertorch_knows_it() -> Iterator[None]:
    """While advertorch 0.2.3 is imported, torch has the name `zero_gradients` again, which it dropped in 1.9."""
    # Imported by its path, as `torch.autograd.gradcheck` is the function that hides this module. The name's value can
    # be None: only advertorch's FAB attack would call it.
    module = importlib.import_module("torch.autograd.gradcheck")
    with mock.patch.object(module, "zero_gradients", None, create=True):
        yield


@contextmanager
def _scipy_as_advertorch_knows_it() -> Iterator[None]:
    """While advertorch 0.2.3 runs, scipy's L-BFGS-B takes `iprint` again, which it dropped in 1.18; it only printed."""
    solver = scipy.optimize.fmin_l_bfgs_b

    def with_iprint(*given: Any, iprint: int, **named: Any) -> Any:  # noqa: ARG001  # advertorch asks for silence
        return solver(*given, **named)

    with mock.patch.object(scipy.optimize, "fmin_l_bfgs_b", with_iprint):  # advertorch looks it up at each call
        yield


@contextmanager
def _seeded() -> Iterator[None]:
    """Peers draw from torch's global generator: give them the same numbers each time, and everyone else their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def advertorch_lbfgs(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, batch: int, progress: Progress = lambda _done, _of: None
) -> Tensor:
    """Targeted L-BFGS with advertorch's default settings; gives the clean image where it failed.

    batch: images that are one problem to scipy, with one step length and one curvature.
    """
    with torch.no_grad():
        count = classifier(images[:1]).shape[1]
    attack = load("advertorch.attacks").LBFGSAttack(classifier, num_classes=count, batch_size=batch, targeted=True)
    found = []
    with _scipy_as_advertorch_knows_it():
        for clean, targets in zip(torch.split(images, batch), torch.split(classes, batch), strict=True):
            found.append(attack.perturb(clean, targets))
            progress(len(found), -(-len(images) // batch))
    return torch.cat(found)


def foolbox_fgsm(classifier: nn.Module, images: Tensor, classes: Tensor, *, epsilon: float, norm: Norm) -> Tensor:
    """Fast gradient (sign) method."""
    attacks = load("foolbox").attacks
    attack = {"linf": attacks.LinfFastGradientAttack, "l2": attacks.L2FastGradientAttack}[norm]
    return _foolbox(attack(), classifier, images, classes, epsilon)


def foolbox_pgd(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, epsilon: float, norm: Norm, steps: int, step_size: float
) -> Tensor:
    """Projected gradient descent from a random start, once."""
    attacks = load("foolbox").attacks
    attack = {"linf": attacks.LinfPGD, "l2": attacks.L2PGD}[norm]
    return _foolbox(attack(steps=steps, abs_stepsize=step_size), classifier, images, classes, epsilon)


def _foolbox(attack: Any, classifier: nn.Module, images: Tensor, classes: Tensor, epsilon: float) -> Tensor:
    foolbox = load("foolbox")
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device=images.device)
    with _seeded():
        _, clipped, _ = attack(model, images, foolbox.criteria.Misclassification(classes), epsilons=epsilon)
    return _tensor(clipped)


def torchattacks_fgsm(classifier: nn.Module, images: Tensor, classes: Tensor, *, epsilon: float) -> Tensor:
    """Fast gradient sign method; it has none in L2."""
    return _tensor(load("torchattacks").FGSM(classifier, eps=epsilon)(images, classes))


def torchattacks_pgd(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, epsilon: float, norm: Norm, steps: int, step_size: float
) -> Tensor:
    """Projected gradient descent from a random start, once."""
    peer = load("torchattacks")
    attack = {"linf": peer.PGD, "l2": peer.PGDL2}[norm](classifier, eps=epsilon, alpha=step_size, steps=steps)
    with _seeded():
        return _tensor(attack(images, classes))


def torchattacks_square(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, epsilon: float, queries: int
) -> Tensor:
    """Square attack in Linf, on the margin; gives the clean image where it failed."""
    # It does not count its first query, that of stripes.
    attack = load("torchattacks").Square(classifier, norm="Linf", eps=epsilon, n_queries=queries - 1)
    with _seeded():
        return _tensor(attack(images, classes))


def _tensor(images: Any) -> Tensor:
    assert isinstance(images, Tensor)
    return images


def as_pythae(vae: Autoencoder, shape: torch.Size, *, latents: int) -> Any:
    """Pythae's VAE with our networks for its own; images shaped (c, h, w). Skips where pythae isn't installed."""
    models = pytest.importorskip("pythae.models", reason="pythae is not installed (uv pip install -e '.[peers]')")
    config = models.VAEConfig(input_dim=tuple(shape), latent_dim=latents, reconstruction_loss="bce")
    model = models.VAE(config)
    model.encoder, model.decoder = _PythaesEncoder(vae), _PythaesDecoder(vae)
    return model.eval()


class _PythaesEncoder(nn.Module):
    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor) -> SimpleNamespace:
        mean, log_variance = self.vae.encode(images)
        return SimpleNamespace(embedding=mean, log_covariance=log_variance)


class _PythaesDecoder(nn.Module):
    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> dict[str, Tensor]:
        return {"reconstruction": self.vae.decode(latents)}
