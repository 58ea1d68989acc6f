"""The adaptive attacker's target: a classifier guarded by the VAE, differentiated end to end."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from vaecore._check import check_labels, check_logits
from vaecore._noise import normal, seed_for
from vaecore.attacks._attack import Loss, Objective, class_loss
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._decode import decode_draws, posterior


@dataclass(frozen=True)
class VAEDetector:
    """A classifier guarded by a VAE, which raises an alarm where reconstructions of an image get different labels.

    Any attack takes it in place of a classifier: `pgd(VAEDetector(vae, classifier), images, ...)`. The attacker knows
    everything but the detector's random numbers, and wins an image where the classifier gives it a wrong label (with
    targets: the target) and all its draws that label too. The loss is that of the classifier on the image itself and
    its mean over `draws` reconstructions in equal parts, drawn anew each step (expectation over transformation, EOT;
    Athalye et al. 2018, section 4.2), with the gradient taken through encode, draw, decode and classify. So that the
    labels agree, an untargeted attack heads for one class: of all wrong ones that with the highest log-probability so
    averaged, chosen anew each step. loss="cross-entropy" is that log-probability in nats, "margin" its lead over the
    label's.

    error_weight: adds the attacker's wish for a small reconstruction error, in loss units per unit of squared error
    summed over pixels (averaged over draws). backward: "exact"; "identity" takes reconstruction for the identity on
    the way back (BPDA; Athalye et al. 2018, section 4.1), which is a cross-check and no attack to rely on.
    """

    vae: Autoencoder
    classifier: Classify
    draws: int = 10
    error_weight: float = 0.0
    backward: Literal["exact", "identity"] = "exact"

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be 1 or more; got {self.draws}")
        if not 0 <= self.error_weight < float("inf"):
            raise ValueError(f"error_weight must be 0 or more, and finite; got {self.error_weight}")
        if self.backward not in ("exact", "identity"):
            raise ValueError(f"backward must be 'exact' or 'identity'; got {self.backward!r}")

    def objective(self, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int) -> Objective:
        """The attacker's objective (see `vaecore.Victim`); the noise of an image follows from (seed, index, step)."""

        def objective(points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            count, aim = len(points), aims[rows]
            reconstructions = self._reconstruct(points, indices[rows], seed_for(f"eot/{step}", seed))
            logits = self.classifier(torch.cat([points.unsqueeze(1), reconstructions], dim=1).flatten(0, 1))
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
            straight = points.unsqueeze(1).expand_as(decoded)
            return straight + (decoded - straight).detach()
        return decoded

    def _error(self, points: Tensor, reconstructions: Tensor) -> Tensor | float:
        if self.error_weight == 0:
            return 0.0
        squares = (reconstructions - points.unsqueeze(1)).square().sum(dim=(2, 3, 4))
        return self.error_weight * squares.mean(dim=1)


def joint_loss(scores: Tensor, aims: Tensor, *, targeted: bool, loss: Loss) -> Tensor:
    """What the attacker drives up; scores: (m, classes) log-probabilities, averaged over what must agree; to (m,)."""
    own = scores.gather(1, aims.unsqueeze(1)).squeeze(1)
    if loss == "margin":
        return class_loss(scores, aims, targeted=targeted, loss=loss)
    return own if targeted else scores.scatter(1, aims.unsqueeze(1), -torch.inf).amax(dim=1)
