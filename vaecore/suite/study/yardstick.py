"""Family D, yardstick: an adversarially trained classifier under the worst of several attacks, in the first run.

Threat model. White box: the attacker knows the classifier and its weights, and changes each pixel by epsilon at most.
"""

from collections.abc import Sequence
from typing import Any

from vaecore import Images, fit_robust, reference_configs, worst_case
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, stack
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Tensors, classifier_of, seed_for


class Yardstick(Evidence):
    """Evidence from adversarial training at a condition's size (`WORST_CASE(1.5)`), which takes as long as a run."""

    def count(self, setup: Setup, condition: Condition) -> int:  # noqa: ARG002
        """As many as attacks on purifiers take."""
        return min(setup.protocol.profile.adaptive_images, len(setup.test))

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task, for the first run."""
        shared = {"epsilon": setup.protocol.size(condition), "seed": setup.seeds[0], "device": str(setup.device)}
        inputs = {"train": setup.training}
        weights = Task(train_robust, shared, inputs, "models", "training the robust classifier")
        shape = {"shape": setup.train.shape, "classes": setup.train.classes or 0}
        arguments = shared | shape | {"settings": dict(condition.kind.settings)}
        arguments["config"] = reference_configs(setup.train)[1]
        shard = setup.shard((0, self.count(setup, condition)))
        title = "attack on the robust classifier"
        return [Task(attack_robust, arguments, {"shard": shard, "weights": weights}, "attacks", title)]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:  # noqa: ARG002
        """The column `right`, (1, images)."""
        return stack(results)


YARDSTICK = Yardstick()


def train_robust(epsilon: float, seed: int, device: str, train: Tensors) -> Tensors:
    """Weights of the reference classifier, adversarially trained; a task."""
    images = Images(train["pixels"], train["labels"], "the training images", "train")
    return dict(fit_robust(images, epsilon=epsilon, seed=seed, device=device).cpu().state_dict())


def attack_robust(
    epsilon: float,
    seed: int,
    device: str,
    config: Any,
    shape: tuple[int, int, int],
    classes: int,
    settings: dict[str, float],
    shard: Tensors,
    weights: Tensors,
) -> Tensors:
    """Whether each image's label is right under the worst of several attacks, (n,); a task."""
    model = classifier_of(config, shape, classes)
    model.load_state_dict(weights)
    model.requires_grad_(requires_grad=False).to(device).eval()
    pixels, labels, indices = (shard[name].to(device) for name in ("pixels", "labels", "indices"))
    effort: Any = {name: int(value) for name, value in settings.items()}
    own_seed = seed_for("attack/robust", seed)
    attack = worst_case(model, pixels, labels, epsilon=epsilon, seed=own_seed, indices=indices, **effort)
    return {"right": (~attack.success).cpu()}
