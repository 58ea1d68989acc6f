"""Rivals of the VAE: the same statistics behind purifiers that need no training (feature squeezing, Xu et al. 2018)."""

from collections.abc import Sequence

import torch

from vaecore import Autoencoder, Purifier, VAEPurifier
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.plain import BITS, MEDIAN, THRESHOLD, plain_purifiers
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, join
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Tensors, answers


def squeezers(vae: Autoencoder, *, background: bool) -> dict[str, Purifier]:
    """Each purifier, by its name."""
    return plain_purifiers(background=background) | {"vae-mean": VAEPurifier(vae)}


class Squeezing(Evidence):
    """Evidence from purified images under a condition; columns as `squeeze` describes them."""

    def count(self, setup: Setup, condition: Condition) -> int:
        """As the condition says, and no more than conditions share."""
        return min(super().count(setup, condition), setup.protocol.profile.images)

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and shard of images."""
        return [
            Task(
                squeeze,
                {"device": str(setup.device), "background": setup.background},
                {
                    "attack": setup.attack(condition, number, rows),
                    "vae": setup.model("vae", number),
                    "classifier": setup.model("classifier", number),
                },
                "squeezing",
                f"squeezing, {setup.protocol.name(condition)}",
            )
            for number in range(len(setup.seeds))
            for rows in setup.shards(self.count(setup, condition))
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:
        """As `squeeze` describes them."""
        return join(results, len(setup.shards(self.count(setup, condition))))


SQUEEZING = Squeezing()


def squeeze(device: str, *, background: bool, attack: Tensors, vae: Autoencoder, classifier: Classify) -> Tensors:
    """What a classifier says of images and of their purified versions, (n,) float64; a task.

    "disagreement/<purifier>": one minus the probability of the image's own label behind the purifier. squeezing: the
    largest L1 distance between the softmax of the image and that behind a rounding and a median (Xu et al. 2018,
    section 5, and their best pairs for MNIST and CIFAR-10, but that the median is of 3x3 pixels). success: the attack
    reached its aim.
    """
    images, purifiers = attack["images"].to(device), squeezers(vae, background=background)
    with torch.no_grad():
        own = _softmax(classifier, images)
        behind = {name: _softmax(classifier, purifier(images)) for name, purifier in purifiers.items()}
    label = own.argmax(dim=1, keepdim=True)
    columns = {f"disagreement/{name}": 1 - values.gather(1, label)[:, 0] for name, values in behind.items()}
    pair = (THRESHOLD if background else BITS, MEDIAN)
    columns["squeezing"] = torch.stack([(behind[name] - own).abs().sum(dim=1) for name in pair]).amax(dim=0)
    return {name: values.cpu() for name, values in columns.items()} | {"success": attack["success"]}


def _softmax(classifier: Classify, images: torch.Tensor) -> torch.Tensor:
    return answers(classifier, images).double().softmax(dim=1)
