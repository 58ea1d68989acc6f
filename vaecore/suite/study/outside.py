"""Family C: the scores that models give to images from outside the data set.

Beside the scores of each set: p-values by scores of images held out, scores of images that an attacker has moved to
hide them, and scores of a VAE trained on another set, to which the study's images are outside.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from vaecore import Autoencoder, FittedScores, ScoreDetector, conformal_p_values, fit_scores, pgd, reference_configs
from vaecore import scores as all_scores
from vaecore.suite.study.conditions import AWAY, HIDDEN, HOME, INSIDE, OUTSIDE, Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.models import all_but, reference, seen, train_reference
from vaecore.suite.study.setup import Setup, given
from vaecore.suite.study.tables import Columns, join
from vaecore.suite.study.tasks import Given, Task
from vaecore.toolkit import Classify, Tensors, is_made, lacking_needs, seed_for

HIDDEN_FROM = ("latent-knn", "max-softmax", "mse")  # scores that attackers hide from


def paired_with_inside(condition: Condition) -> bool:
    """Whether image i of a set is made of image i of the test set, so that the two are compared as a pair."""
    return condition == INSIDE or is_made(condition.label)


class _OfShards(Evidence):
    """Evidence whose tasks are those of shards of `Protocol.scored` images, run after run."""

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:
        """A column for each name of the results."""
        return join(results, len(setup.shards(self.count(setup, condition), setup.protocol.scored)))


class Scores(_OfShards):
    """Evidence from anomaly scores of a set's images; higher is more anomalous.

    A column for each score that can be had. Expensive scores are of the first images alone, as many as adaptive attacks
    take.
    """

    def count(self, setup: Setup, condition: Condition) -> int:
        """All images of the set that the study looks at."""
        return len(setup.sets.images(condition)[0])

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and `Protocol.scored` images."""
        shards = setup.shards(self.count(setup, condition), setup.protocol.scored)
        most = setup.protocol.profile.adaptive_images
        return [
            Task(
                score,
                {"device": str(setup.device), "few": max(0, min(most, rows[1]) - rows[0])},
                {
                    "shard": setup.sets.shard(condition, *rows),
                    "fitted": fitted_scores(setup, number),
                    "expensive": fitted_scores(setup, number, expensive=True),
                },
                "scores",
                f"scores, {setup.protocol.name(condition)}",
            )
            for number in range(len(setup.seeds))
            for rows in shards
        ]


class PValues(_OfShards):
    """Evidence from conformal p-values: of each score that `SCORES` or `HIDING` has a column of, by images held out."""

    def count(self, setup: Setup, condition: Condition) -> int:
        """As the scores'."""
        return self._of(condition).count(setup, condition)

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each that computes scores."""
        tasks = self._of(condition).tasks(setup, condition)
        each, title = len(tasks) // len(setup.seeds), "conformal p-values"
        return [
            Task(p_values, {}, {"scored": task, "held": held_scores(setup, place // each)}, "scores", title)
            for place, task in enumerate(tasks)
        ]

    @staticmethod
    def _of(condition: Condition) -> "Scores | Hiding":
        return HIDING if condition.kind is HIDDEN else SCORES


class Hiding(_OfShards):
    """Evidence from scores of images outside that were moved to hide from a score.

    A column "<score hidden from>/<score>" for each score that is not expensive.
    """

    def count(self, setup: Setup, condition: Condition) -> int:
        """As the condition says, of those that the set has."""
        return min(setup.protocol.images(condition), SCORES.count(setup, OUTSIDE(label=condition.label)))

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and shard."""
        protocol = setup.protocol
        arguments: dict[str, Any] = {
            "names": list(HIDDEN_FROM),
            "epsilon": protocol.size(condition),
            "steps": int(condition.kind.settings["steps"]),
            "draws": protocol.eot_draws,
            "device": str(setup.device),
        }
        return [
            Task(
                hide,
                {**arguments, "seed": seed},
                {
                    "shard": setup.sets.shard(OUTSIDE(label=condition.label), *rows),
                    "fitted": fitted_scores(setup, number),
                },
                "scores",
                f"hiding, {condition.label}",
            )
            for number, seed in enumerate(setup.seeds)
            for rows in setup.shards(self.count(setup, condition), setup.protocol.scored)
        ]


class Abroad(_OfShards):
    """Evidence from scores of a reference VAE that is trained on another set, a run each.

    A column for each score that takes no classifier and is not expensive.
    """

    def count(self, setup: Setup, condition: Condition) -> int:
        """Images of the set that the VAE has not seen, or test images."""
        if condition.kind is AWAY:
            return SCORES.count(setup, INSIDE)
        return len(setup.sets.parted(condition)[2])

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and `Protocol.scored` images."""
        whole, held_out, home = setup.sets.parted(condition)
        shown, indices = (whole.take(home), home) if condition.kind is HOME else setup.sets.images(INSIDE)
        learnt = {"train": given(whole), "held_out": Given({"places": held_out})}
        config, device = reference_configs(whole.take(all_but(held_out, len(whole))))[0], str(setup.device)
        described: dict[str, Any] = {"kind": "vae", "config": config, "device": device}
        tasks = []
        for seed in setup.seeds:
            title = f"training a VAE on {condition.label}"
            weights = Task(train_reference, {**described, "seed": seed}, learnt, "models", title)
            vae = Task(reference, {**described, "shape": whole.shape, "classes": 0}, {"weights": weights})
            arguments = {"seed": seed, "draws": setup.protocol.draws, "device": device, "expensive": False}
            fitted = Task(fit, arguments, {"vae": vae, "classifier": None, **learnt})
            tasks += [
                Task(
                    score,
                    {"device": device, "few": 0},
                    {
                        "shard": Given({"pixels": shown.pixels[slice(*rows)], "indices": indices[slice(*rows)]}),
                        "fitted": fitted,
                        "expensive": None,
                    },
                    "scores",
                    f"scores by a VAE of {condition.label}",
                )
                for rows in setup.shards(self.count(setup, condition), setup.protocol.scored)
            ]
        return tasks


SCORES, P_VALUES, HIDING, ABROAD = Scores(), PValues(), Hiding(), Abroad()


def fitted_scores(setup: Setup, number: int, *, expensive: bool = False) -> Task:
    """The scores of a run, counted from 0, fitted on training images, as an input."""
    seed = setup.seeds[number]
    inputs: dict[str, Any] = {kind: setup.model(kind, number) for kind in ("vae", "classifier")}
    held_out = None if setup.training is None else setup.held_places(seed)
    inputs |= {"train": setup.training, "held_out": held_out}
    arguments = {"seed": seed, "draws": setup.protocol.draws, "device": str(setup.device), "expensive": expensive}
    return Task(fit, arguments, inputs)


def held_scores(setup: Setup, number: int) -> Task:
    """Scores of the training images that a run's models have not seen, but for expensive ones; as an input."""
    inputs = {"shard": setup.held(setup.seeds[number]), "fitted": fitted_scores(setup, number), "expensive": None}
    return Task(score, {"device": str(setup.device), "few": 0}, inputs, "scores", "scores, held-out images")


def fit(
    seed: int,
    draws: int,
    device: str,
    expensive: bool,  # noqa: FBT001  # tasks take all arguments by name
    vae: Autoencoder,
    classifier: Classify | None,
    train: Tensors | None,
    held_out: Tensors | None,
) -> FittedScores:
    """All expensive scores that can be had, or all others; a task."""
    pixels = None
    if train is not None and held_out is not None:
        pixels = seen(train, held_out).pixels.to(device)
    lacking = {*lacking_needs(vae, classifier, pixels)}
    names = [name for name, one in all_scores.items() if one.expensive == expensive and not lacking & {*one.needs}]
    return fit_scores(vae, classifier, pixels, seed=seed_for("scores", seed), draws=draws, names=names)


def score(device: str, few: int, shard: Tensors, fitted: FittedScores, expensive: FittedScores | None) -> Tensors:
    """Every score of some images, (n,) each, and expensive ones of the first few, (few,); a task."""
    columns = _scored(fitted, device, shard, len(shard["pixels"]))
    return columns if expensive is None else columns | _scored(expensive, device, shard, few)


def _scored(fitted: FittedScores, device: str, shard: Tensors, images: int) -> Tensors:
    if images == 0:
        return {name: torch.zeros(0) for name in fitted.names}
    columns = fitted(shard["pixels"][:images].to(device), indices=shard["indices"][:images].to(device))
    return {name: values.cpu() for name, values in columns.items()}


def p_values(scored: Tensors, held: Tensors) -> Tensors:
    """Conformal p-values, (n,), of each column of scores by those of images held out; a task.

    NaN by a score that gave NaN to any.
    """
    values = {}
    for name, new in scored.items():
        known = held.get(name.rpartition("/")[2])
        if known is not None:
            defined = not (known.isnan().any() or new.isnan().any())
            values[name] = torch.from_numpy(conformal_p_values(known, new)) if defined else new.double() * math.nan
    return values


def hide(
    names: Sequence[str],
    epsilon: float,
    steps: int,
    draws: int,
    seed: int,
    device: str,
    shard: Tensors,
    fitted: FittedScores,
) -> Tensors:
    """Scores "<hidden from>/<score>", (n,), of images moved to hide from each of `names` that is fitted; a task.

    draws: that the attacker averages over in a step. Its random numbers are not the score's.
    """
    pixels, indices = shard["pixels"].to(device), shard["indices"].to(device)
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)  # which play no part
    attacker = replace(fitted, settings=replace(fitted.settings, draws=draws))
    columns: Tensors = {}
    for name in (name for name in names if name in fitted.names):
        attack = pgd(
            ScoreDetector(attacker, name),
            pixels,
            labels,
            epsilon=epsilon,
            steps=steps,
            seed=seed_for(f"attack/hide-from-{name}", seed),
            indices=indices,
            keep_failed=True,
        )
        columns |= {f"{name}/{judge}": values.cpu() for judge, values in fitted(attack.images, indices=indices).items()}
        columns[f"{name}/flags"] = attack.flags.cpu()
    return columns
