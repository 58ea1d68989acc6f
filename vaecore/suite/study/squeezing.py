"""Rivals of the VAE: the same statistics behind purifiers that need no training (feature squeezing, Xu et al. 2018)."""

from collections.abc import Mapping, Sequence

import torch

from vaecore import Autoencoder, GaussianBlur, MedianFilter, Purifier, Threshold, VAEPurifier
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, join
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Tensors, answers

# Xu et al.'s best pair for MNIST, with a median of 3x3 in place of 2x2 pixels; blur and VAE stand beside it.
SQUEEZERS = ("threshold", "median")


def squeezers(vae: Autoencoder) -> dict[str, Purifier]:
    """Each purifier, by its name."""
    return {
        "threshold": Threshold(),
        "median": MedianFilter(),
        "blur": GaussianBlur(),
        "vae-mean": VAEPurifier(vae),
    }


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
                {"device": str(setup.device)},
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


def squeeze(device: str, attack: Tensors, vae: Autoencoder, classifier: Classify) -> Tensors:
    """What a classifier says of images and of their purified versions, (n,) float64; a task.

    "disagreement/<purifier>": one minus the probability of the image's own label behind the purifier. squeezing: the
    largest L1 distance, over SQUEEZERS, between the softmax of the image and that behind the purifier (Xu et al. 2018,
    section 5). success: the attack reached its aim.
    """
    images = attack["images"].to(device)
    with torch.no_grad():
        own = _softmax(classifier, images)
        behind: Mapping[str, torch.Tensor] = {
            name: _softmax(classifier, purifier(images)) for name, purifier in squeezers(vae).items()
        }
    label = own.argmax(dim=1, keepdim=True)
    columns = {f"disagreement/{name}": 1 - values.gather(1, label)[:, 0] for name, values in behind.items()}
    distances = torch.stack([(behind[name] - own).abs().sum(dim=1) for name in SQUEEZERS])
    columns["squeezing"] = distances.amax(dim=0)
    return {name: values.cpu() for name, values in columns.items()} | {"success": attack["success"]}


def _softmax(classifier: Classify, images: torch.Tensor) -> torch.Tensor:
    return answers(classifier, images).double().softmax(dim=1)
