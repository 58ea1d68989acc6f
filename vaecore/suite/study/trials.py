"""Trials of the attacks: ones that vary the adaptive attacker's effort, and ones that know less.

What an honest evaluation of a defence shows beside its attacks (Carlini et al. 2019; Croce & Hein 2020): success does
not fall as the attack may do more, it reaches 100% in the end, and no attack without the exact gradient does better.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from vaecore import Autoencoder, VAEDetector, Victim, pgd, reconstruct_labels, square
from vaecore.suite.study.conditions import JOINT
from vaecore.suite.study.perturbations import joint_pgd
from vaecore.suite.study.protocol import Protocol
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tasks import Task
from vaecore.suite.text import counted, intensity
from vaecore.toolkit import Classify, Tensors, ask, seed_for

QUERIES = 500
_STEPS = int(JOINT.settings["steps"])


@dataclass(frozen=True)
class Trial:
    """An attack with some effort on some images of the first run.

    victim: "classifier", or "detector", which has the VAE. epsilon: in pixel intensity. draws: averaged over in each
    step (EOT) of an attack on the detector. attack: "pgd" with exact gradients, "bpda" with the identity for that of
    the VAE, "square" without gradients. steps: of "square", queries.
    """

    victim: Literal["classifier", "detector"]
    epsilon: float
    draws: int
    attack: Literal["pgd", "bpda", "square"] = "pgd"
    steps: int = _STEPS

    def __str__(self) -> str:
        """In words, for flags."""
        what = {"pgd": "PGD", "bpda": "PGD with BPDA", "square": "Square"}[self.attack]
        effort = f"{self.steps} {'queries' if self.attack == 'square' else 'steps'}"
        effort += f", {counted(self.draws, 'draw', 'd')} a step" if self.victim == "detector" else ""
        return f"{what} on the {self.victim} (epsilon {intensity(self.epsilon)}, {effort})"


def _at(protocol: Protocol, victim: Literal["classifier", "detector"], size: float) -> Trial:
    """The trial with the protocol's own effort, at so many budgets."""
    return Trial(victim, protocol.budgets(size), protocol.eot_draws)


def sweeps(protocol: Protocol) -> dict[str, list[Trial]]:
    """Rows of trials that each vary one thing, from less to more of it; in each, success must not fall."""
    sizes = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5)
    one_budget = _at(protocol, "detector", 1)  # where success is not complete, so that more effort could still gain
    return {
        "epsilon": [_at(protocol, "detector", size) for size in sizes],
        "steps": [replace(one_budget, steps=steps) for steps in (5, 10, 20, 40, 80)],
        "draws": [replace(one_budget, draws=draws) for draws in (1, 2, 5, 10)],
        "epsilon, classifier alone": [_at(protocol, "classifier", size) for size in sizes],
    }


def weaker(protocol: Protocol) -> list[tuple[Trial, Trial]]:
    """Attacks that know less, each with one that knows more."""
    best = _at(protocol, "detector", 1.5)
    exact = [_at(protocol, victim, size) for size in (0.5, 1.0, 1.5) for victim in ("classifier", "detector")]
    return [
        (replace(best, attack="bpda"), best),
        *((replace(trial, attack="square", steps=QUERIES), trial) for trial in exact),
    ]


def trial_tasks(setup: Setup) -> dict[Trial, Task]:
    """Which images each trial wins, in the first run."""
    protocol = setup.protocol
    every = [trial for row in sweeps(protocol).values() for trial in row]
    every += [trial for pair in weaker(protocol) for trial in pair]
    rows = (0, min(protocol.trial_images, len(setup.test)))
    inputs = {"shard": setup.shard(rows), "vae": setup.model("vae", 0), "classifier": setup.model("classifier", 0)}
    shared = {"seed": setup.seeds[0], "judging_draws": protocol.draws, "device": str(setup.device)}
    return {
        trial: Task(attack_and_judge, asdict(trial) | shared, inputs, "trials", "trials of the attacks")
        for trial in dict.fromkeys(every)
    }


def attack_and_judge(
    victim: str,
    epsilon: float,
    draws: int,
    attack: str,
    steps: int,
    seed: int,
    judging_draws: int,
    device: str,
    shard: Tensors,
    vae: Autoencoder,
    classifier: Classify,
) -> Tensors:
    """Which images a trial wins, (n,) bool, judged by new draws; a task.

    Won is an image that is misclassified and, by the detector, raises no alarm.
    """
    rows = {name: value.to(device) for name, value in shard.items()}
    pixels, labels, indices = rows["pixels"], rows["labels"], rows["indices"]
    backward: Any = "identity" if attack == "bpda" else "exact"
    detector = VAEDetector(vae, classifier, draws=draws, backward=backward)
    target: Victim | Classify = detector if victim == "detector" else classifier
    attack_seed = seed_for(f"trial/{attack}", seed)
    common: Any = {"epsilon": epsilon, "seed": attack_seed, "indices": indices, "keep_failed": True}
    if attack == "square":
        images = square(target, pixels, labels, queries=steps, **common).images
    elif victim == "classifier":
        images = pgd(target, pixels, labels, steps=steps, **common).images
    else:
        images = joint_pgd(detector, rows, epsilon=epsilon, steps=steps, seed=attack_seed).images
    with torch.no_grad():
        label = ask(classifier, images).argmax(dim=1)
    won = label != labels
    if victim == "detector":
        fresh = seed_for("trial/judge", seed)
        drawn = reconstruct_labels(vae, classifier, images, draws=judging_draws, seed=fresh, indices=indices)
        won &= (drawn == label.unsqueeze(1)).all(dim=1)
    return {"won": won.cpu()}
