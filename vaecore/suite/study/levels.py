"""Family C: what the levels of a hierarchical VAE make of images from outside, beside its ELBO."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vaecore import HierarchicalVAE, Images, hierarchical_config, likelihood_ratio, partial_elbo
from vaecore.suite.study.conditions import AWAY, HOME, INSIDE, Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.models import all_but, reference, train_reference
from vaecore.suite.study.outside import ABROAD, SCORES
from vaecore.suite.study.setup import Setup, given
from vaecore.suite.study.tables import Columns, join
from vaecore.suite.study.tasks import Given, Task
from vaecore.toolkit import Tensors, seed_for

_ABROAD = (HOME, AWAY)


class Levels(Evidence):
    """Evidence from a hierarchical VAE a run, trained on the study's images or, at HOME and AWAY, on another set.

    Columns, of which higher is more anomalous: `elbo`, minus the ELBO in nats; `likelihood-ratio`, LLR>1. None where
    there are no training images.
    """

    def count(self, setup: Setup, condition: Condition) -> int:
        """As the scores'."""
        return (ABROAD if condition.kind in _ABROAD else SCORES).count(setup, condition)

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and `Protocol.scored` images."""
        if setup.training is None:
            return []
        images, indices = _shown(setup, condition)
        shards = [
            Given({"pixels": images.pixels[slice(*rows)], "indices": indices[slice(*rows)]})
            for rows in setup.shards(len(images), setup.protocol.scored)
        ]
        arguments = {"draws": setup.protocol.draws, "device": str(setup.device)}
        return [
            Task(
                look,
                {**arguments, "seed": seed},
                {"shard": shard, "vae": _model(setup, condition, seed)},
                "scores",
                f"levels, {setup.protocol.name(condition)}",
            )
            for seed in setup.seeds
            for shard in shards
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:
        """See the class."""
        return join(results, len(setup.shards(self.count(setup, condition), setup.protocol.scored))) if results else {}


LEVELS = Levels()


def _shown(setup: Setup, condition: Condition) -> tuple[Images, Tensor]:
    """The images that a condition shows the model, and the index of each."""
    if condition.kind is HOME:
        whole, _, home = setup.sets.parted(condition)
        return whole.take(home), home
    return setup.sets.images(INSIDE if condition.kind is AWAY else condition)


def _model(setup: Setup, condition: Condition, seed: int) -> Task:
    """The hierarchical VAE of a seed, as an input."""
    whole, title = setup.train, "training the hierarchical VAE"
    learnt: dict[str, Any] = {"train": setup.training, "held_out": setup.held_places(seed)}
    if condition.kind in _ABROAD:
        whole, held_out, _ = setup.sets.parted(condition)
        learnt = {"train": given(whole), "held_out": Given({"places": held_out})}
        whole = whole.take(all_but(held_out, len(whole)))
        title += f" on {condition.label}"
    config, device = hierarchical_config(whole), str(setup.device)
    described: dict[str, Any] = {"kind": "hierarchical vae", "config": config, "device": device}
    weights = Task(train_reference, {**described, "seed": seed}, learnt, "models", title)
    return Task(reference, {**described, "shape": whole.shape, "classes": 0}, {"weights": weights})


def look(draws: int, seed: int, device: str, shard: Tensors, vae: HierarchicalVAE) -> Tensors:
    """The columns of some images, (n,) each; a task."""
    pixels, indices = shard["pixels"].to(device), shard["indices"].to(device)
    setting: dict[str, Any] = {"draws": draws, "seed": seed_for("levels", seed), "indices": indices}
    return {
        "elbo": -partial_elbo(vae, pixels, **setting).cpu(),
        "likelihood-ratio": likelihood_ratio(vae, pixels, above=1, **setting).cpu(),
    }
