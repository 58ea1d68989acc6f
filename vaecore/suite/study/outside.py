"""Family C: the scores that models give to images from outside the data set."""

import math
from collections.abc import Sequence
from typing import Any

from vaecore import Autoencoder, FittedScores, fit_scores
from vaecore import scores as all_scores
from vaecore.suite.study.conditions import INSIDE, Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.models import seen
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, join
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Tensors, is_made, seed_for

_FITTED_ON = "training images"  # among the needs of a score


def paired_with_inside(condition: Condition) -> bool:
    """Whether image i of a set is made of image i of the test set, so that the two are compared as a pair."""
    return condition == INSIDE or is_made(condition.label)


class Scores(Evidence):
    """Evidence from anomaly scores of a set's images; higher is more anomalous."""

    def count(self, setup: Setup, condition: Condition) -> int:
        """All images of the set that the study looks at."""
        return len(setup.sets.images(condition)[0])

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and `Protocol.scored` images."""
        shards = setup.shards(self.count(setup, condition), setup.protocol.scored)
        return [
            Task(
                score,
                {"device": str(setup.device)},
                {"shard": setup.sets.shard(condition, *rows), "fitted": fitted_scores(setup, number)},
                "scores",
                f"scores, {setup.protocol.name(condition)}",
            )
            for number in range(len(setup.seeds))
            for rows in shards
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:
        """A column for each score. Those that are fitted on training images are left out where there are none."""
        return join(results, math.ceil(self.count(setup, condition) / setup.protocol.scored))


SCORES = Scores()


def fitted_scores(setup: Setup, number: int) -> Task:
    """The scores of a run, counted from 0, fitted on training images, as an input."""
    seed = setup.seeds[number]
    inputs: dict[str, Any] = {kind: setup.model(kind, number) for kind in ("vae", "classifier")}
    held_out = None if setup.training is None else setup.held_places(seed)
    inputs |= {"train": setup.training, "held_out": held_out}
    return Task(fit, {"seed": seed, "device": str(setup.device)}, inputs)


def fit(
    seed: int,
    device: str,
    vae: Autoencoder,
    classifier: Classify,
    train: Tensors | None,
    held_out: Tensors | None,
) -> FittedScores:
    """All scores that can be had; a task."""
    pixels = None
    if train is not None and held_out is not None:
        pixels = seen(train, held_out).pixels.to(device)
    names = [name for name, score in all_scores.items() if pixels is not None or _FITTED_ON not in score.needs]
    return fit_scores(vae, classifier, pixels, seed=seed_for("scores", seed), names=names)


def score(device: str, shard: Tensors, fitted: FittedScores) -> Tensors:
    """Every score of some images, (n,) each; a task."""
    columns = fitted(shard["pixels"].to(device), indices=shard["indices"].to(device))
    return {name: values.cpu() for name, values in columns.items()}
