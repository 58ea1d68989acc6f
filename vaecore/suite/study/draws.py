"""Families A and B, and E1 to E4: what a VAE's reconstructions of an image show, draw by draw.

A row depends on its image, the models and the seed, never on its batch-mates: so results computed in shards, on one
machine or several, join by concatenation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vaecore import Autoencoder, elbo, fit_scores, reconstruct, squared_error
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.kinds import MAGNET
from vaecore.suite.study.perturbations import reconstructions_seed
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, join
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Precision, Tensors, answers, kl_of_posterior, posterior


class Draws(Evidence):
    """Evidence from reconstructions under a condition of the protocol."""

    def draws(self, setup: Setup) -> int:
        """Reconstructions drawn of each image."""
        return setup.protocol.draws

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and shard of images."""
        protocol = setup.protocol
        arguments = {
            "draws": self.draws(setup),
            "bound_draws": protocol.draws if condition in protocol.with_elbo else 0,
            "precision": setup.precision,
            "device": str(setup.device),
        }
        return [
            Task(
                look,
                {**arguments, "seed": seed},
                {
                    "shard": setup.shard(rows),
                    "attack": setup.attack(condition, number, rows),
                    "vae": setup.model("vae", number),
                    "classifier": setup.model("classifier", number),
                },
                "draws",
                f"draws, {protocol.name(condition)}",
            )
            for number, seed in enumerate(setup.seeds)
            for rows in setup.shards(self.count(setup, condition))
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:
        """Columns as `look` describes them."""
        return join(results, len(setup.shards(self.count(setup, condition))))


class ManyDraws(Draws):
    """The same evidence from many reconstructions of each image, of which those of `Draws` are the first."""

    def count(self, setup: Setup, condition: Condition) -> int:
        """As the condition says, and no more than conditions share."""
        return min(super().count(setup, condition), setup.protocol.profile.images)

    def draws(self, setup: Setup) -> int:
        """Reconstructions drawn of each image."""
        return setup.protocol.many_draws


DRAWS, MANY_DRAWS = Draws(), ManyDraws()


def look(
    draws: int,
    bound_draws: int,
    precision: Precision,
    device: str,
    seed: int,
    shard: Tensors,
    attack: Tensors,
    vae: Autoencoder,
    classifier: Classify,
) -> Tensors:
    """What models say of a shard's images and of their reconstructions; columns (n,) or (n, draws), on the CPU.

    index, label: of the image. success: the attack reached its aim (true for clean images and noise). l2: size of the
    change. evaluations, flags: as in `vaecore.Attack`. predicted: the classifier's label; confidence: its softmax,
    float64. ink: mean pixel. zeros: share of pixels that are exactly 0. kl: nats. latent_shift: L2 distance of the
    posterior mean from that of the clean image. elbo: nats, from the first bound_draws draws; left out where these are
    none. Each of MAGNET: the score of `vaecore.scores`.
    draw_label, draw_probability: label of each reconstruction and its softmax. draw_own_probability: softmax of a
    reconstruction at the label that the image itself was given. draw_mse: mean squared error over pixels.
    precision: of the reconstructions; attacks, classifier and ELBO keep to float32. seed: of the run.
    """
    images, indices = attack["images"].to(device), shard["indices"].to(device)
    with torch.no_grad():
        confidence, predicted = answers(classifier, images).double().softmax(dim=1).max(dim=1)
        mean, log_variance = posterior(vae, images)
        divergence = kl_of_posterior(mean, log_variance)
        shift = (mean - posterior(vae, shard["pixels"].to(device))[0]).norm(dim=1)

    offset = 0  # chunks reach the reduction in order

    def summarise(rows: Tensor, reconstructions: Tensor) -> Tensors:
        nonlocal offset
        chosen = predicted[offset : offset + len(rows), None, None].expand(-1, draws, 1)
        offset += len(rows)
        logits = answers(classifier, reconstructions.flatten(0, 1))
        probability = logits.softmax(dim=1).view(len(rows), draws, -1)
        highest, label = probability.max(dim=2)
        return {
            "draw_label": label.to(torch.int16),
            "draw_probability": highest,
            "draw_own_probability": probability.gather(2, chosen).squeeze(2),
            "draw_mse": squared_error(rows, reconstructions),
        }

    noise: dict[str, Any] = {"seed": reconstructions_seed(seed), "indices": indices}
    columns = reconstruct(vae, images, draws=draws, reduce=summarise, precision=precision, **noise)
    if bound_draws:
        columns["elbo"] = elbo(vae, images, draws=bound_draws, **noise)
    columns |= fit_scores(vae, classifier, None, seed=seed, names=MAGNET)(images)  # which take no draws
    columns |= {
        "index": shard["indices"],
        "label": shard["labels"],
        "predicted": predicted,
        "confidence": confidence,
        "ink": images.mean(dim=(1, 2, 3)),
        "zeros": (images == 0).float().mean(dim=(1, 2, 3)),
        "kl": divergence,
        "latent_shift": shift,
    }
    columns |= {name: attack[name] for name in ("success", "l2", "evaluations", "flags")}
    return {name: column.cpu() for name, column in columns.items()}
