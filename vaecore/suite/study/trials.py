"""Can the attacks be believed? Trials that vary the adaptive attacker's effort, and flags on every result.

What an honest evaluation of a defence shows beside its attacks (Carlini et al. 2019; Croce & Hein 2020): success does
not fall as the attack may do more, it reaches 100% in the end, and no attack without the exact gradient does better.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vaecore._noise import seed_for
from vaecore._store import Tensors, digest, source_digest
from vaecore.attacks import _square
from vaecore.attacks._attack import Victim, flag_warnings
from vaecore.attacks._detector import VAEDetector
from vaecore.attacks._pgd import pgd
from vaecore.attacks._square import square
from vaecore.models._networks import Classify
from vaecore.reconstruction._reconstruct import reconstruct_labels
from vaecore.suite.statistics.intervals import beats
from vaecore.suite.study.draws import (
    ADAPTIVE,
    CONDITIONS,
    DRAWS,
    EOT_DRAWS,
    EPSILONS,
    JOINT,
    MINIMAL,
    STEPS,
    Shard,
    joint_pgd,
)
from vaecore.suite.study.study import EVIDENCE_STAGE, Run, Study

QUERIES = 500
Wins = NDArray[np.bool_]


@dataclass(frozen=True)
class Trial:
    """An attack with some effort on some images of the first run.

    victim: "classifier", or "detector", which has the VAE. attack: "pgd" with exact gradients, "bpda" with the identity
    for that of the VAE, "square" without gradients, STEPS then being QUERIES. draws: of EOT, for each step.
    """

    victim: Literal["classifier", "detector"]
    attack: Literal["pgd", "bpda", "square"] = "pgd"
    epsilon: float = 0.3
    steps: int = STEPS[JOINT]
    draws: int = EOT_DRAWS

    def __str__(self) -> str:
        """In words, for flags."""
        what = {"pgd": "PGD", "bpda": "PGD with BPDA", "square": "Square"}[self.attack]
        effort = f"{self.steps} {'queries' if self.attack == 'square' else 'steps'}"
        effort += f", {self.draws} draws a step" if self.victim == "detector" else ""
        return f"{what} on the {self.victim} (epsilon {self.epsilon:g}, {effort})"


DETECTOR, CLASSIFIER = Trial("detector"), Trial("classifier")
SIZES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
# Each row varies one thing, from less to more of it; in each, success must not fall.
SWEEPS = {
    "epsilon": [replace(DETECTOR, epsilon=size) for size in SIZES],
    # Where success is not complete, so that more effort could still gain.
    "steps": [replace(DETECTOR, epsilon=0.2, steps=steps) for steps in (5, 10, 20, 40, 80)],
    "draws": [replace(DETECTOR, epsilon=0.2, draws=draws) for draws in (1, 2, 5, 10)],
    "epsilon, classifier alone": [replace(CLASSIFIER, epsilon=size) for size in SIZES],
}
# Attacks that know less, each against one that knows more.
WEAKER = [(replace(DETECTOR, attack="bpda"), DETECTOR)] + [
    (replace(best, attack="square", steps=QUERIES), best)
    for size in (0.1, 0.2, 0.3)
    for best in (replace(CLASSIFIER, epsilon=size), replace(DETECTOR, epsilon=size))
]
_STAGE = digest(EVIDENCE_STAGE, source_digest(_square))


def trials(study: Study) -> dict[Trial, Wins]:
    """Which images each trial wins, judged by DRAWS new draws: misclassified and, by the detector, no alarm."""
    wanted = _wanted()
    _ = study.runs
    with study.timed("evidence"), study.meter("trials of the adaptive attack") as advance:
        return dict(zip(wanted, study.each(_wins, [(trial,) for trial in wanted], advance), strict=True))


def tasks() -> list[tuple[Any, ...]]:
    """Functions, and what they take besides the study, that compute all of `trials`."""
    return [(_wins, trial) for trial in _wanted()]


def _wanted() -> list[Trial]:
    every = [*(trial for row in SWEEPS.values() for trial in row), *(trial for pair in WEAKER for trial in pair)]
    return list(dict.fromkeys(every))


def _wins(study: Study, trial: Trial) -> Wins:
    run = study.run(0)
    shard = study.shard(run, study.indices[: study.trial_images])
    models = (run.vae_digest, run.classifier_digest)
    key = digest("trial", asdict(trial), *models, *shard.known, _STAGE, study.device.type)

    def compute() -> Tensors:
        return {"won": _judge(run, trial, shard.to(study.device)).cpu()}

    return np.asarray(study.store.get("evidence", key, compute)["won"].numpy())


def _judge(run: Run, trial: Trial, shard: Shard) -> torch.Tensor:
    backward: Any = "identity" if trial.attack == "bpda" else "exact"
    detector = VAEDetector(run.vae, run.classifier, draws=trial.draws, backward=backward)
    victim: Victim | Classify = detector if trial.victim == "detector" else run.classifier
    seed = seed_for(f"trial/{trial.attack}", run.seed)
    common: Any = {"epsilon": trial.epsilon, "seed": seed, "indices": shard.indices, "keep_failed": True}
    if trial.attack == "square":
        images = square(victim, shard.pixels, shard.labels, queries=trial.steps, **common).images
    elif trial.victim == "classifier":
        images = pgd(victim, shard.pixels, shard.labels, steps=trial.steps, **common).images
    else:
        images = joint_pgd(detector, shard, trial.epsilon, trial.steps, seed).images
    with torch.no_grad():
        label = run.classifier(images).argmax(dim=1)
    if trial.victim == "classifier":
        return label != shard.labels
    fresh = seed_for("trial/judge", run.seed)
    drawn = reconstruct_labels(run.vae, run.classifier, images, draws=DRAWS, seed=fresh, indices=shard.indices)
    return (label != shard.labels) & (drawn == label.unsqueeze(1)).all(dim=1)


def flags(study: Study, conditions: Collection[str] = CONDITIONS) -> list[str]:
    """What casts doubt on the attacks of these conditions, in words; empty where nothing does."""
    found = [f"{name}: {line}" for name in conditions for line in _of_condition(study, name)]
    sizes = [name for name in (f"fgsm-{epsilon:g}" for epsilon in EPSILONS) if name in conditions]
    found += _falls(sizes, [study.table(name)["success"].ravel() for name in sizes])
    if not set(ADAPTIVE) & set(conditions):
        return found
    wins = trials(study)
    for sweep, row in SWEEPS.items():
        found += _falls(row, [wins[trial] for trial in row])
        if sweep.startswith("epsilon") and not wins[row[-1]].all():
            found.append(f"{row[-1]} wins {wins[row[-1]].mean():.0%} only: with so much room it must win every image")
    for weak, strong in WEAKER:
        if beats(wins[weak], wins[strong]):
            found.append(
                f"{weak} wins {wins[weak].mean():.0%}, {strong} {wins[strong].mean():.0%}: one that knows less must not"
                f" be better; {(wins[weak] & ~wins[strong]).sum()} images only it wins (are gradients masked?)"
            )
    return found


def _falls(names: Sequence[object], wins: Sequence[Wins]) -> list[str]:
    return [
        f"success falls from {less.mean():.0%} to {more.mean():.0%} with more effort: {milder}, then {stronger}"
        for (milder, less), (stronger, more) in pairwise(zip(names, wins, strict=True))
        if beats(less, more)
    ]


def _of_condition(study: Study, name: str) -> list[str]:
    table = study.table(name)
    lines = flag_warnings(torch.from_numpy(table["flags"]).flatten())
    failed = int((~table["success"]).sum()) if name in MINIMAL else 0
    return lines + ([f"{failed} of {table['success'].size} images: the attack did not reach its aim"] if failed else [])
