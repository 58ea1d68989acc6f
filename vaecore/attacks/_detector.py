"""Target of adaptive attacks: a classifier guarded by a VAE, differentiated end to end."""

from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from vaecore._calls import ask
from vaecore._check import (
    check_choice,
    check_classifier,
    check_integer,
    check_labels,
    check_logits,
    check_number,
)
from vaecore._noise import normal, seed_for
from vaecore.attacks._attack import Loss, Objective, class_loss
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._decode import check_vae, decode_draws, posterior


@dataclass(frozen=True)
class VAEDetector:
    """A classifier with a VAE that raises an alarm if an image's reconstructions get different labels.

    `fgsm`, `pgd`, `square` and `worst_case` take it in place of a classifier: `pgd(VAEDetector(vae, classifier), ...)`.
    The attacker knows everything except the detector's random numbers. It succeeds if the classifier gives the image a
    wrong label (with targets: the target) and gives all `draws` reconstructions the same label. The log-probabilities
    of the image and the mean of those of its reconstructions count half each. Reconstructions are drawn anew in each
    step (expectation over transformation, EOT; Athalye et al. 2018, section 4.2), and the gradient passes through
    encoder, draw, decoder and classifier. An untargeted attack aims at the wrong class with the highest averaged
    log-probability, chosen in each step, so that the labels agree. loss="cross-entropy" is that log-probability in
    nats; "margin" subtracts the label's, and "dlr" scales that.

    error_weight: subtracts the squared error summed over pixels, mean over draws, times this weight from the loss, for
    an attacker who also wants a small reconstruction error. backward: "exact", or "identity", which replaces the
    reconstruction by the identity in the backward pass (BPDA; section 4.1 there): a cross-check, not a strong attack.
    """

    vae: Autoencoder
    classifier: Classify
    draws: int = 10
    error_weight: float = 0.0
    backward: Literal["exact", "identity"] = "exact"

    def __post_init__(self) -> None:
        check_vae(self.vae)
        check_classifier(self.classifier)
        object.__setattr__(self, "draws", check_integer("draws", self.draws, 1))
        check_number("error_weight", self.error_weight, lambda value: 0 <= value < inf, "0 or more, and finite")
        check_choice("backward", self.backward, ("exact", "identity"))

    def objective(self, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int) -> Objective:
        """The attacker's objective (see `vaecore.Victim`); an image's noise depends on (seed, index, step)."""

        def objective(points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            count, aim = len(points), aims[rows]
            reconstructions = self._reconstruct(points, indices[rows], seed_for(f"eot/{step}", seed))
            logits = ask(self.classifier, torch.cat([points.unsqueeze(1), reconstructions], dim=1).flatten(0, 1))
            check_logits(logits, count * (1 + self.draws))
            check_labels(aims, len(aims), classes=logits.shape[1], name="targets" if targeted else "labels")
            scores = log_softmax(logits, dim=1).view(count, 1 + self.draws, -1)
            labels = scores.argmax(dim=2)
            won = (labels == labels[:, :1]).all(dim=1) & ((labels[:, 0] == aim) == targeted)
            joint = (scores[:, 0] + scores[:, 1:].mean(dim=1)) / 2
            return won, joint_loss(joint, aim, targeted=targeted, loss=loss) - self._error(points, reconstructions)

        return objective

    def _reconstruct(self, points: Tensor, indices: Tensor, seed: int) -> Tensor:
        mean, log_variance = posterior(self.vae, points)
        noise = normal(seed, indices, draws=self.draws, size=mean.shape[1], device=points.device)
        latents = mean.unsqueeze(1) + (0.5 * log_variance).exp().unsqueeze(1) * noise
        decoded = decode_draws(self.vae, latents, points.shape)
        if self.backward == "identity":
            identity = points.unsqueeze(1).expand_as(decoded)
            return identity + (decoded - identity).detach()
        return decoded

    def _error(self, points: Tensor, reconstructions: Tensor) -> Tensor | float:
        if self.error_weight == 0:
            return 0.0
        squares = (reconstructions - points.unsqueeze(1)).square().sum(dim=(2, 3, 4))
        return self.error_weight * squares.mean(dim=1)


def joint_loss(scores: Tensor, aims: Tensor, *, targeted: bool, loss: Loss) -> Tensor:
    """The loss that the attacker maximises; scores: (m, classes) averaged log-probabilities; returns (m,)."""
    if loss != "cross-entropy":
        return class_loss(scores, aims, targeted=targeted, loss=loss)
    if targeted:
        return scores.gather(1, aims.unsqueeze(1)).squeeze(1)
    return scores.scatter(1, aims.unsqueeze(1), -torch.inf).amax(dim=1)
