"""Target of adaptive attacks: a classifier guarded by a VAE, differentiated end to end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, log
from types import MappingProxyType
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
    check_seed,
    check_type,
    check_vae,
)
from vaecore._noise import normal, seed_for
from vaecore.attacks._attack import Loss, Objective, class_loss
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._decode import decode_draws, posterior


@dataclass(frozen=True)
class VAEDetector:
    """A classifier with a VAE that raises an alarm where reconstructions disagree or a score exceeds its threshold.

    `fgsm`, `pgd`, `square` and `worst_case` take it in place of a classifier: `pgd(VAEDetector(vae, classifier), ...)`.
    The attacker knows everything except the detector's random numbers. It succeeds if the classifier gives the image a
    wrong label (with targets: the target), all `draws` reconstructions get the same label, and no score is above its
    threshold. Reconstructions are drawn anew in each step (expectation over transformation, EOT; Athalye et al. 2018,
    section 4.2), and the gradient passes through encoder, draw, decoder and classifier.

    The loss: the log-probabilities of the image and the mean of those of its reconstructions count half each. An
    untargeted attack aims at the wrong class with the highest averaged log-probability, chosen in each step, so that
    the labels agree. loss="cross-entropy" is that log-probability in nats; "margin" subtracts the label's, and "dlr"
    scales that.

    thresholds: the alarms, by the names of `scores`: "mse", "disagreement", "max-softmax", and MagNet's "magnet-error"
    and "magnet-divergence" (Meng and Chen 2017), each above 0. As soon as
    the label is wrong, the loss is then minus the sum of what the attacker still lacks: the logarithm of each score
    over its threshold, where it is above, and the mean margin by which draws miss the image's label. So it changes what
    one alarm sees only as long as that alarm would be raised (selective PGD: Bryniarski et al. 2022).
    known_seed: the seed of the detector's own draws, which the attacker knows in place of drawing anew; those of
    `reconstruct`. backward: "exact", or "identity", which replaces the reconstruction by the identity in the backward
    pass (BPDA; section 4.1 of Athalye et al.): a cross-check, not a strong attack.
    """

    vae: Autoencoder = field(repr=False)
    classifier: Classify = field(repr=False)
    draws: int = 10
    thresholds: Mapping[str, float] = field(default_factory=dict)
    known_seed: int | None = None
    backward: Literal["exact", "identity"] = "exact"

    def __post_init__(self) -> None:
        check_vae(self.vae)
        check_classifier(self.classifier)
        object.__setattr__(self, "draws", check_integer("draws", self.draws, 1))
        check_type("thresholds", self.thresholds, Mapping, "{'mse': 0.02}")
        for name, value in self.thresholds.items():
            check_choice("a threshold's score", name, _ALARMS)
            check_number(f"the threshold of {name}", value, lambda number: 0 < number < inf, "above 0, and finite")
        object.__setattr__(self, "thresholds", MappingProxyType(dict(self.thresholds)))
        if self.known_seed is not None:
            object.__setattr__(self, "known_seed", check_seed(self.known_seed))
        check_choice("backward", self.backward, ("exact", "identity"))

    def objective(self, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int) -> Objective:
        """The attacker's objective (see `vaecore.Victim`); an image's noise depends on (seed, index, step)."""

        def objective(points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            count, aim = len(points), aims[rows]
            own_seed = seed_for(f"eot/{step}", seed) if self.known_seed is None else self.known_seed
            reconstructions = self._reconstruct(points, indices[rows], own_seed)
            logits = ask(self.classifier, torch.cat([points.unsqueeze(1), reconstructions], dim=1).flatten(0, 1))
            check_logits(logits, count * (1 + self.draws))
            check_labels(aims, len(aims), classes=logits.shape[1], name="targets" if targeted else "labels")
            logits = logits.view(count, 1 + self.draws, -1)
            scores = log_softmax(logits, dim=2)
            labels = scores.argmax(dim=2)
            fooled = (labels[:, 0] == aim) == targeted
            won = (labels == labels[:, :1]).all(dim=1) & fooled
            joint = (scores[:, 0] + scores[:, 1:].mean(dim=1)) / 2
            value = joint_loss(joint, aim, targeted=targeted, loss=loss)
            if not self.thresholds:
                return won, value
            excess = self._excess(points, reconstructions, scores, labels[:, 0])
            lacking = excess.clamp(min=0).sum(dim=1) + _missing_margin(logits[:, 1:], labels[:, 0])
            return won & (excess <= 0).all(dim=1), torch.where(fooled, -lacking, value)

        return objective

    def _reconstruct(self, points: Tensor, indices: Tensor, seed: int) -> Tensor:
        mean, log_variance = posterior(self.vae, points)
        noise = normal(seed, indices, draws=self.draws, size=mean.shape[1], device=points.device)
        latents = mean.unsqueeze(1) + (0.5 * log_variance).exp().unsqueeze(1) * noise
        return self._decode(points, latents)

    def _decode(self, points: Tensor, latents: Tensor) -> Tensor:
        decoded = decode_draws(self.vae, latents, points.shape)
        if self.backward == "identity":
            identity = points.unsqueeze(1).expand_as(decoded)
            return identity + (decoded - identity).detach()
        return decoded

    def _excess(self, points: Tensor, reconstructions: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Logarithm of each score over its threshold, (m, thresholds)."""
        own = labels.view(-1, 1, 1).expand(-1, self.draws, 1)
        at_mean = points
        if not MAGNET.isdisjoint(self.thresholds):
            at_mean = self._decode(points, posterior(self.vae, points)[0].unsqueeze(1))[:, 0]
        alarms = {
            "mse": lambda: (reconstructions - points.unsqueeze(1)).square().mean(dim=(1, 2, 3, 4)),
            "disagreement": lambda: 1 - scores[:, 1:].exp().gather(2, own).mean(dim=(1, 2)),
            "max-softmax": lambda: 1 - scores[:, 0].exp().amax(dim=1),
            "magnet-error": lambda: (points - at_mean).abs().mean(dim=(1, 2, 3)),
            "magnet-divergence": lambda: magnet_divergence(scores[:, 0], ask(self.classifier, at_mean)),
        }
        values = torch.stack([alarms[name]() for name in self.thresholds], dim=1)
        limits = values.new_tensor([*self.thresholds.values()])
        return (values / limits).clamp(min=_LEAST).log()


MAGNET = frozenset({"magnet-error", "magnet-divergence"})  # alarms by the image decoded from the posterior mean
_ALARMS = ("mse", "disagreement", "max-softmax", *sorted(MAGNET))
_MAGNET_TEMPERATURE = 10  # of the softmax in MagNet's divergence (Meng and Chen 2017, section 5.3)
_LEAST = 1e-6  # of a score over its threshold: far below 1, where it counts no more
_SAFE = 1.0  # logits by which a draw's label should lead, so that other draws have it too


def magnet_divergence(logits: Tensor, reconstructed: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of a classifier's tempered answers to images and reconstructions, (n,).

    Both (n, classes). Source: Meng and Chen 2017, section 5.3.
    """
    logarithms = (torch.stack([logits, reconstructed]) / _MAGNET_TEMPERATURE).log_softmax(dim=2)
    middle = torch.logsumexp(logarithms, dim=0) - log(2)
    return (logarithms.exp() * (logarithms - middle)).sum(dim=2).mean(dim=0)


def _missing_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """What draws' logits (m, draws, classes) lack for a safe lead of each image's label (m,), mean over draws; (m,)."""
    own = labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1)
    lead = logits.gather(2, own).squeeze(2) - logits.scatter(2, own, -inf).amax(dim=2)
    return (_SAFE - lead).clamp(min=0).mean(dim=1)


def joint_loss(scores: Tensor, aims: Tensor, *, targeted: bool, loss: Loss) -> Tensor:
    """The loss that the attacker maximises; scores: (m, classes) averaged log-probabilities; returns (m,)."""
    if loss != "cross-entropy":
        return class_loss(scores, aims, targeted=targeted, loss=loss)
    if targeted:
        return scores.gather(1, aims.unsqueeze(1)).squeeze(1)
    return scores.scatter(1, aims.unsqueeze(1), -torch.inf).amax(dim=1)
