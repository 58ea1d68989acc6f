"""Attacks of other libraries under one signature: (classifier, images, classes) and settings in, images out.

The extra `peers` installs the libraries; `load` imports them. `classes` are labels, to be left, or targets where an
attack is `targeted`. Images are in [0, 1], and attacked all at once.
"""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vaecore import Autoencoder
from vaecore.toolkit import Norm

LIBRARIES = ("adv_lib", "foolbox", "torchattacks")


def load(package: str) -> ModuleType:
    """Import a peer; raises ImportError that says how to get it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # foolbox imports by a name that scipy deprecates
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} cannot be imported: {error} (uv pip install -e '.[peers]')") from error


@contextmanager
def _seeded() -> Iterator[None]:
    """Peers draw from torch's global generator: give them the same numbers each time, and everyone else their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def adv_lib_nearest(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, attack: str, steps: int, targeted: bool
) -> Tensor:
    """DDN (not quantised), FMN, ALMA or PDGD, else with adv-lib's defaults; gives the clean image where it failed."""
    attacks = load("adv_lib.attacks")
    settings: dict[str, dict[str, Any]] = {
        "ddn": {"steps": steps, "levels": None},
        "fmn": {"steps": steps, "norm": 2},
        "alma": {"num_steps": steps},
        "pdgd": {"num_steps": steps},
    }
    with _seeded():
        return _tensor(getattr(attacks, attack)(classifier, images, classes, targeted=targeted, **settings[attack]))


def foolbox_nearest(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, attack: str, steps: int, targeted: bool
) -> Tensor:
    """DDN or FMN with foolbox's default settings; gives its last image where it failed."""
    foolbox = load("foolbox")
    found = {"ddn": foolbox.attacks.DDNAttack, "fmn": foolbox.attacks.L2FMNAttack}[attack](steps=steps)
    aim = foolbox.criteria.TargetedMisclassification if targeted else foolbox.criteria.Misclassification
    return _foolbox(found, classifier, images, aim(classes), None)


def torchattacks_nearest(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, attack: str, steps: int, targeted: bool
) -> Tensor:
    """Carlini and Wagner's ("cw") with torchattacks' default settings: one constant, that is not searched for."""
    assert attack == "cw"
    peer = load("torchattacks").CW(classifier, steps=steps)
    if targeted:
        peer.set_mode_targeted_by_label(quiet=True)
    return _tensor(peer(images, classes))


def foolbox_fgsm(classifier: nn.Module, images: Tensor, classes: Tensor, *, epsilon: float, norm: Norm) -> Tensor:
    """Fast gradient (sign) method."""
    attacks = load("foolbox").attacks
    attack = {"linf": attacks.LinfFastGradientAttack, "l2": attacks.L2FastGradientAttack}[norm]
    return _foolbox(attack(), classifier, images, load("foolbox").criteria.Misclassification(classes), epsilon)


def foolbox_pgd(
    classifier: nn.Module, images: Tensor, classes: Tensor, *, epsilon: float, norm: Norm, steps: int, step_size: float
) -> Tensor:
    """Projected gradient descent from a random start, once."""
    attacks = load("foolbox").attacks
    attack = {"linf": attacks.LinfPGD, "l2": attacks.L2PGD}[norm]
    aim = load("foolbox").criteria.Misclassification(classes)
    return _foolbox(attack(steps=steps, abs_stepsize=step_size), classifier, images, aim, epsilon)


def _foolbox(attack: Any, classifier: nn.Module, images: Tensor, aim: Any, epsilon: float | None) -> Tensor:
    model = load("foolbox").PyTorchModel(classifier, bounds=(0, 1), device=images.device)
    with _seeded():
        _, clipped, _ = attack(model, images, aim, epsilons=epsilon)
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
