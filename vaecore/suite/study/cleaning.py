"""Family D: what purifiers make of attacked images, under attackers that do not know them and under ones that do.

Threat model. White box: the attacker knows classifier, purifier and its parameters, and not the defender's random
numbers. It changes each pixel by epsilon at most, within [0, 1], and wants any wrong label.

- Attackers that do not know the purifier run FGSM, PGD or L-BFGS on the classifier alone.
- Attackers that know it run PGD on the whole, with the exact gradient through the purifier, and with new draws of its
  noise in each step (EOT). The search in latent space has the gradient of its optimum. Rounding has none: there PGD
  takes the identity's on the way back (BPDA), and a discrete search (`vaecore.flips`) attacks as well.
- Square, which asks for no gradient, attacks where none is exact: it must not win more than the others.

All are judged by draws that no attacker has seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vaecore import (
    Autoencoder,
    Chain,
    Purified,
    Purifier,
    VAEPurifier,
    flips,
    pgd,
    square,
)
from vaecore.suite.study.conditions import (
    CLEAN,
    FGSM,
    GAUSSIAN,
    LBFGS,
    PGD,
    PURIFIED,
    SIGN,
    SIZES,
    WORST_CASE,
    Condition,
)
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.plain import BITS, MEDIAN, SEARCH, THRESHOLD, latent_search, plain_purifiers
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, join, stack
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Tensors, ask, seed_for

NONE, MAJORITY = "none", "vae-majority"
CLEANED = (CLEAN, *map(FGSM, SIZES), *map(SIGN, SIZES), PGD(0.5), WORST_CASE(0.5), PGD(1), LBFGS, GAUSSIAN)
JUDGED = (
    CLEAN,
    FGSM(1),
    FGSM(1.5),
    SIGN(0.5),
    SIGN(1.5),
    PGD(1),
)  # that claims take; others are shown, on fewer images
CURVE = (0.25, 0.5, 0.75, 1.0, 1.5)  # budgets of the attacks that accuracy is shown against
STEPS, QUERIES = 40, 500
KNOWING = ("ignoring", "through", "flipped", "queried")  # attacks, by what they know of the purifier
# Images for the search in latent space, which is slow: those that are shown, and those that a claim has attacked. Where
# a claim cleans L-BFGS images, it takes all.
SEARCHED, SEARCHES_ATTACKED = 40, 100


@dataclass(frozen=True)
class Parts:
    """What purifiers are made of: the models of a run, the reconstructions drawn of an image, and the plain ones."""

    vae: Autoencoder
    autoencoder: Autoencoder | None
    draws: int
    plain: Mapping[str, Purifier]


@dataclass(frozen=True)
class Row:
    """A purifier of the study. make: the purifier; rows with one `make` share its views.

    decide: what is made of its views. averaged: attackers average over new draws in each step. rounding: the discrete
    search attacks it, too. queried: sizes at which Square does, in the first run. autoencoder: takes the plain
    autoencoder, which needs training images. background: only for images that have one.
    """

    make: Callable[[Parts], Purifier]
    decide: Literal["mean-image", "mean-softmax", "majority"] = "mean-image"
    averaged: bool = False
    rounding: bool = False
    queried: tuple[float, ...] = ()
    autoencoder: bool = False
    background: bool = False


def _mean(parts: Parts) -> Purifier:
    return VAEPurifier(parts.vae)


def _sampled(parts: Parts) -> Purifier:
    return VAEPurifier(parts.vae, draws=parts.draws)


def _autoencoder(parts: Parts) -> Purifier:
    assert parts.autoencoder is not None
    return VAEPurifier(parts.autoencoder)


PURIFIERS = {
    "vae-posterior-mean": Row(_mean),
    "vae-one-draw": Row(lambda parts: VAEPurifier(parts.vae, draws=1), averaged=True),
    "vae-mean-image": Row(_sampled),
    "vae-mean-softmax": Row(_sampled, decide="mean-softmax"),
    MAJORITY: Row(_sampled, decide="majority"),
    "vae-three-times": Row(lambda parts: Chain([_mean(parts)] * 3)),
    "autoencoder": Row(_autoencoder, autoencoder=True),
    SEARCH: Row(lambda parts: latent_search(parts.vae), queried=(1.5,)),
    THRESHOLD: Row(lambda parts: parts.plain[THRESHOLD], rounding=True, queried=CURVE, background=True),
    BITS: Row(lambda parts: parts.plain[BITS], rounding=True, queried=CURVE),
    MEDIAN: Row(lambda parts: parts.plain[MEDIAN]),
    "blur": Row(lambda parts: parts.plain["blur"]),
    "jpeg": Row(lambda parts: parts.plain["jpeg"], queried=CURVE),
}


def in_all_runs(setup: Setup) -> list[Condition]:
    """The attacks on a study's purifiers that are made in all runs."""
    return [condition for condition in IN_ALL_RUNS if condition.label in names(setup)]


def names(setup: Setup) -> list[str]:
    """The purifiers that a study has: those whose needs its images meet."""
    trains, background = setup.training is not None, setup.background
    return [
        name
        for name, row in PURIFIERS.items()
        if (trains or not row.autoencoder) and (background or not row.background)
    ]


def purifiers(
    names: Sequence[str],
    seed: int,
    draws: int,
    eot_draws: int,
    *,
    background: bool,
    vae: Autoencoder,
    autoencoder: Autoencoder | None,
    classifier: Classify,
) -> dict[str, Purified]:
    """The classifier behind each of some purifiers, with the defender's noise of a run's seed; a task."""
    parts = Parts(vae, autoencoder, draws, plain_purifiers(background=background))
    made, models = dict[Any, Purifier](), {}
    for name in names:
        row = PURIFIERS[name]
        purifier = made[row.make] = made.get(row.make) or row.make(parts)
        models[name] = Purified(
            purifier,
            classifier,
            decide=row.decide,
            eot=eot_draws if row.averaged else 1,
            seed=seed_for("purifier", seed),
        )
    return models


class Cleaning(Evidence):
    """Evidence from purifiers under a condition that does not know them: is the label behind each right?"""

    def count(self, setup: Setup, condition: Condition) -> int:
        """As many as L-BFGS takes, or half as many where no claim looks at them."""
        profile = setup.protocol.profile
        few = profile.lbfgs_images if condition.attack is not None else profile.lbfgs_images // 2
        return min(profile.images if condition in JUDGED else few, len(setup.test))

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run and shard of images."""
        searched = self.count(setup, condition) if condition == LBFGS else SEARCHED
        return [
            Task(
                clean,
                {"device": str(setup.device), "searched": max(0, searched - rows[0])},
                {
                    "shard": setup.shard(rows),
                    "attack": setup.attack(condition, number, rows),
                    "classifier": setup.model("classifier", number),
                    "models": purified_models(setup, number, names(setup)),
                },
                "cleaning",
                f"cleaning, {setup.protocol.name(condition)}",
            )
            for number in range(len(setup.seeds))
            for rows in setup.shards(self.count(setup, condition))
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:
        """A boolean column for each purifier, and NONE; SEARCH is asked about few images, see SEARCHED."""
        return join(results, len(setup.shards(self.count(setup, condition))))


CLEANING = Cleaning()


class AttackedPurifiers(Evidence):
    """Evidence from attacks on a purifier (`PURIFIED(size, label=name)`).

    Columns say whether the label behind it is right. through: under PGD on the whole. ignoring: under PGD on the
    classifier alone; NONE: the same, without the purifier. flipped: under the discrete search, where it rounds.
    """

    def count(self, setup: Setup, condition: Condition) -> int:
        """As many as adaptive attacks take."""
        count = setup.count(condition)
        return min(count, SEARCHES_ATTACKED) if condition.label == SEARCH else count

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run."""
        count = self.count(setup, condition)
        return [judged_attacks(setup, condition, number, count) for number in range(len(setup.seeds))]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:  # noqa: ARG002
        """As above."""
        return stack(results)


ATTACKED = AttackedPurifiers()
IN_ALL_RUNS = (  # attacks that claims take; others are shown in the first run
    PURIFIED(0.5, label=MAJORITY),
    PURIFIED(1, label=MAJORITY),
    PURIFIED(1.5, label=SEARCH),
    PURIFIED(1, label=THRESHOLD),
    PURIFIED(1.5, label=THRESHOLD),
)


def purified_models(setup: Setup, number: int, chosen: Sequence[str]) -> Task:
    """The classifier of a run, counted from 0, behind each of some purifiers, as an input."""
    protocol = setup.protocol
    arguments = {"seed": setup.seeds[number], "draws": protocol.draws, "eot_draws": protocol.eot_draws}
    arguments["background"] = setup.background
    plain = any(PURIFIERS[name].autoencoder for name in chosen)
    inputs = {
        "vae": setup.model("vae", number),
        "autoencoder": setup.model("autoencoder", number) if plain else None,
        "classifier": setup.model("classifier", number),
    }
    return Task(purifiers, {"names": list(chosen), **arguments}, inputs)


def curve_tasks(setup: Setup) -> dict[tuple[str, float], Task]:
    """Attacks of each size in CURVE on each purifier, in the first run and on few images; for a figure."""
    tasks = {}
    count = min(setup.protocol.trial_images, len(setup.test))
    for name in names(setup):
        for size in CURVE:
            images = min(count, SEARCHED) if name == SEARCH else count
            queried = size in PURIFIERS[name].queried
            tasks[name, size] = judged_attacks(setup, PURIFIED(size, label=name), 0, images, queried=queried)
    return tasks


def judged_attacks(setup: Setup, condition: Condition, number: int, count: int, *, queried: bool = False) -> Task:
    """What a purifier makes of the attacks on it, by a run, counted from 0, and on the first so many images.

    queried: Square attacks as well.
    """
    name, shard, device = condition.label, setup.shard((0, count)), str(setup.device)
    shared = {"epsilon": setup.protocol.size(condition), "seed": setup.seeds[number], "device": device}
    # The decisions by labels and by softmax of the same views have one loss, and so one attack.
    victim = "vae-mean-softmax" if name == MAJORITY else name
    classifier = setup.model("classifier", number)

    def attack(kind: str, name: str) -> Task:
        arguments = shared | {"kind": kind, "name": name, "eot_draws": setup.protocol.eot_draws}
        inputs = {"shard": shard, "models": purified_models(setup, number, [name])}
        return Task(attack_purifier, arguments, inputs, "attacks", f"attack through {name}")

    inputs = {
        "shard": shard,
        "classifier": classifier,
        "models": purified_models(setup, number, [name]),
        "through": attack("through", victim),
        "ignoring": Task(
            attack_classifier, shared, {"shard": shard, "classifier": classifier}, "attacks", "attack, no purifier"
        ),
        "flipped": attack("flipped", name) if PURIFIERS[name].rounding else None,
        "queried": attack("queried", name) if queried else None,
    }
    return Task(judge_attacks, {"name": name, "device": device}, inputs, "cleaning", f"judging attacks, {name}")


def attack_classifier(epsilon: float, seed: int, device: str, shard: Tensors, classifier: Classify) -> Tensors:
    """Images (n, c, h, w) of PGD that does not know any purifier; a task."""
    pixels, labels = shard["pixels"].to(device), shard["labels"].to(device)
    attack = pgd(classifier, pixels, labels, epsilon=epsilon, steps=STEPS, **_common(seed, shard, device))
    return {"images": attack.images.cpu()}


def attack_purifier(
    kind: str,
    name: str,
    epsilon: float,
    seed: int,
    eot_draws: int,
    device: str,
    shard: Tensors,
    models: Mapping[str, Purified],
) -> Tensors:
    """Images (n, c, h, w) of an attack on a purifier; a task.

    kind: "through", PGD on the whole; "queried", Square; "flipped", the discrete search.
    """
    pixels, labels = shard["pixels"].to(device), shard["labels"].to(device)
    common, model = {"epsilon": epsilon, **_common(seed, shard, device)}, models[name]
    if kind == "queried":
        return {"images": square(model, pixels, labels, queries=QUERIES, **common).images.cpu()}
    if kind == "flipped":
        return {"images": flips(model.classifier, pixels, labels, rounding=model.purifier, **common).images.cpu()}
    victim = Purified(
        model.purifier.with_draws(eot_draws),
        model.classifier,
        decide=model.decide,
        eot=model.eot,
        seed=model.seed,
    )
    # The adapted step size takes the luck of a step's draws for progress.
    effort: dict[str, Any] = {"step_size": 4 * epsilon / STEPS} if victim.purifier.random else {}
    return {"images": pgd(victim, pixels, labels, steps=STEPS, **effort, **common).images.cpu()}


def _common(seed: int, shard: Tensors, device: str) -> dict[str, Any]:
    """What the attacks of this family share."""
    return {"seed": seed_for("attack/purified", seed), "indices": shard["indices"].to(device), "keep_failed": True}


def judge_attacks(
    name: str,
    device: str,
    shard: Tensors,
    classifier: Classify,
    models: Mapping[str, Purified],
    through: Tensors,
    ignoring: Tensors,
    flipped: Tensors | None,
    queried: Tensors | None,
) -> Tensors:
    """Whether the label behind a purifier is right under each attack, (n,) bool; a task."""
    labels, indices = shard["labels"].to(device), shard["indices"].to(device)
    attacks = {"through": through, "ignoring": ignoring, "flipped": flipped, "queried": queried}
    right = {}
    with torch.no_grad():
        for kind, attack in attacks.items():
            if attack is None:
                continue
            images = attack["images"].to(device)
            right[kind] = models[name](images, indices=indices).argmax(dim=1) == labels
            if kind == "ignoring":
                right[NONE] = ask(classifier, images).argmax(dim=1) == labels
    return {kind: column.cpu() for kind, column in right.items()}


def clean(
    device: str, searched: int, shard: Tensors, attack: Tensors, classifier: Classify, models: Mapping[str, Purified]
) -> Tensors:
    """Whether the label behind each purifier, and NONE, is right, (n,) bool; a task.

    searched: images that SEARCH is asked about.
    """
    images, labels, indices = attack["images"].to(device), shard["labels"].to(device), shard["indices"].to(device)
    right: dict[str, Tensor] = {}
    views: dict[int, Tensor] = {}  # of each purifier, which several decisions share
    logits: dict[int, Tensor] = {}  # of each view, likewise
    with torch.no_grad():
        right[NONE] = ask(classifier, images).argmax(dim=1) == labels
        for name, model in models.items():
            some = slice(searched if name == SEARCH else None)
            if some.stop == 0:
                right[name] = torch.zeros(0, dtype=torch.bool)
                continue
            place = id(model.purifier)
            if place not in views:
                views[place] = model.purifier.views(images[some], indices[some], model.seed)
            if model.decide != "mean-image" and place not in logits:
                logits[place] = model.each(views[place])
            decided = model.of_views(views[place], logits.get(place))
            right[name] = decided.argmax(dim=1) == labels[some]
    return {name: column.cpu() for name, column in right.items()}
