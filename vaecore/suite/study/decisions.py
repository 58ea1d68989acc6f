"""E5 to E8 and B6 to B8: whose confidence can be believed, the classifier's alone or with the VAE's help?

Judges. The classifier's softmax; the mean softmax over reconstructions; both with a temperature; the softmax behind
purifiers that need no training, and behind the search in latent space, with one; and logistic regressions that tell
right from wrong answers by the scaled confidence, alone and with signals of the VAE beside it. Temperatures and
regressions are fitted on training images that neither model has seen (`Setup.held_out`), nothing on test images. A
user's finished model stays as it is, whatever it saw.

Each judge is then asked about test images as they are, turned, noisy and attacked by attackers that do not know the
VAE, and about a mix of which half is from outside, where every answer is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore import fit_temperature
from vaecore.suite.study.conditions import CLEAN, FGSM, LBFGS, MIX, NOISY, OUTSIDE, PGD, ROTATED, Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.plain import ROUNDING, SEARCH
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.signals import SIGNALS, joined
from vaecore.suite.study.tables import Columns, stack
from vaecore.suite.study.tasks import Given, Task
from vaecore.toolkit import Tensors, is_made

ATTACKED = (FGSM(1), PGD(1), LBFGS)
SEARCHED = (FGSM(1), LBFGS)  # of which the search is asked about the first images, as many as L-BFGS takes
ASKED = (CLEAN, ROTATED(15), ROTATED(30), ROTATED(45), ROTATED(60), NOISY(1.5), NOISY(3), *ATTACKED, MIX)
PLAIN, SCALED, MEAN, MEAN_SCALED = "softmax", "temperature", "mean-softmax", "mean-softmax-temperature"
# Judges that give every class a probability: by which logits of `look`, and whether these get a temperature. Those
# behind a threshold are none where it has nothing to tell apart, and those behind the search but under SEARCHED.
CLASSES = {PLAIN: ("logits", False), SCALED: ("logits", True), MEAN: ("mean", False), MEAN_SCALED: ("mean", True)}
CLASSES |= {f"{name}-temperature": (name, True) for name in (*ROUNDING, SEARCH)}
ALONE, ALL = "confidence", "confidence+all"
REGRESSIONS = {ALONE: ()} | {f"confidence+{name}": (name,) for name in SIGNALS} | {ALL: SIGNALS}
JUDGES = (*CLASSES, *REGRESSIONS)
NO_CLASS = -1  # the label of images from outside
# Signals and confidences this near to 0, and to 1 where that is their end, are cut before a logarithm is taken.
_EDGE = 1e-12


class Decisions(Evidence):
    """Evidence from each judge of JUDGES under a condition of ASKED."""

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run."""
        count = self.count(setup, condition)
        labels, mix = _labels(setup, condition, count), _mix(setup, count) if condition == MIX else None
        return [
            Task(
                ask,
                {},
                {
                    "parts": _looks(setup, condition, number, count, mix),
                    "labels": labels,
                    "judges": judges(setup, number),
                },
                "decisions",
                f"decisions, {setup.protocol.name(condition)}",
            )
            for number in range(len(setup.seeds))
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:  # noqa: ARG002
        """Columns as `ask` describes them."""
        return stack(results)


DECISIONS = Decisions()


def outsiders(setup: Setup) -> list[str]:
    """The sets that half of the mix is from: those that are not made of test images, or one that is."""
    return [name for name in setup.sets.sources if not is_made(name)] or ["permuted"]


def _labels(setup: Setup, condition: Condition, count: int) -> Given:
    labels = setup.test.take(setup.indices[:count]).labels
    assert labels is not None
    if condition == MIX:
        labels = labels.clone()
        labels[count - count // 2 :] = NO_CLASS
    return Given({"labels": labels})


def _looks(setup: Setup, condition: Condition, number: int, count: int, mix: Given | None) -> tuple[Task, ...]:
    """What a run's models say of a condition's images, shard by shard."""
    if mix is not None:
        return (setup.look(number, "test", mix, None),)
    searched = setup.protocol.profile.lbfgs_images if condition in SEARCHED else 0
    return tuple(
        setup.look(
            number,
            "test",
            setup.shard((start, stop)),
            setup.attack(condition, number, (start, stop)),
            searched=max(0, min(stop, searched) - start),
        )
        for start, stop in setup.shards(count)
    )


def judges(setup: Setup, number: int) -> Task:
    """The judges of a run, counted from 0, fitted on images held out, as an input."""
    labels = Given({"labels": setup.held(setup.seeds[number]).tensors["labels"]})
    return Task(fit_judges, {}, {"held": setup.look_at_held_out(number), "labels": labels})


def _mix(setup: Setup, count: int) -> Given:
    """The first half of the test images looked at, and as many from outside, taken from each set alike."""
    half, names = count // 2, outsiders(setup)
    inside = setup.test.take(setup.indices[: count - half])
    parts, places = [inside.pixels], [setup.indices[: count - half]]
    for number, name in enumerate(names):
        images, index = setup.sets.images(OUTSIDE(label=name))
        share = half * (number + 1) // len(names) - half * number // len(names)
        rows = torch.arange(share) % len(images)  # a set smaller than its share gives all it has, again and again
        parts.append(images.pixels[rows])
        places.append(index[rows])
    return Given({"pixels": torch.cat(parts), "indices": torch.cat(places)})


def fit_judges(held: Tensors, labels: Tensors) -> "_Judges":
    """Judges fitted on what models say of images held out; a task."""
    return _Judges.fit(_Seen(held), labels["labels"])


def ask(parts: tuple[Tensors, ...], labels: Tensors, judges: "_Judges") -> Tensors:
    """What each judge says of each image, (n,); a task.

    "<judge>/right": is the answer; "<judge>/confidence": that it is; "<judge>/nll": of that, in nats.
    "<judge>/class-nll", "<judge>/class-brier" (0 to 2): of those in CLASSES, of the label's probability and of all; NaN
    where the label is NO_CLASS. The signals by their names. success: the attack reached its aim. NaN where there is
    no regression. Columns of SEARCH are of the first images.
    """
    seen = _Seen(joined(parts))
    return judges.ask(seen, labels["labels"]) | {"success": seen.columns["success"]}


@dataclass
class _Seen:
    """What `signals.look` gives for all images."""

    columns: Tensors

    @property
    def judges(self) -> list[str]:
        """Those of CLASSES that were asked about any image."""
        return [judge for judge, (name, _) in CLASSES.items() if name in self.columns]

    def log_probabilities(self, judge: str, temperatures: dict[str, float]) -> Tensor:
        """Of all classes, (n, classes) in float64, by a judge of CLASSES."""
        logits = self.columns[CLASSES[judge][0]].double()
        return (logits / temperatures.get(judge, 1.0)).log_softmax(dim=1)

    def features(self, judge: str, temperatures: dict[str, float]) -> NDArray[np.float64]:
        """Log-odds of the scaled confidence, and the logarithm of each signal; (n, 1 + signals)."""
        confidence = self.log_probabilities(SCALED, temperatures).amax(dim=1).exp().clamp(_EDGE, 1 - _EDGE)
        signals = [self.columns[name].double().clamp(min=_EDGE).log() for name in REGRESSIONS[judge]]
        return torch.stack([confidence.logit(), *signals], dim=1).numpy()


@dataclass
class _Judges:
    """The judges of a run: temperatures, and regressions of being right; fitted on images held out."""

    temperatures: dict[str, float]
    regressions: dict[str, Any]

    @classmethod
    def fit(cls, seen: _Seen, labels: Tensor) -> "_Judges":
        """None in place of the regressions where no answer was wrong, or none right: there is nothing to learn."""
        temperatures = {
            judge: fit_temperature(logits := seen.columns[CLASSES[judge][0]], labels[: len(logits)])
            for judge in seen.judges
            if CLASSES[judge][1]
        }
        right = (seen.columns["logits"].argmax(dim=1) == labels).numpy()
        if right.all() or not right.any():
            return cls(temperatures, dict.fromkeys(REGRESSIONS))
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  # takes seconds to import
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

        # Few answers are wrong: without a penalty several signals together would tell them apart without error.
        fitted = {
            judge: make_pipeline(StandardScaler(), LogisticRegression()).fit(seen.features(judge, temperatures), right)
            for judge in REGRESSIONS
        }
        return cls(temperatures, fitted)

    def ask(self, seen: _Seen, labels: Tensor) -> Tensors:
        """The columns that `ask` documents, but for `success`."""
        columns = {name: seen.columns[name] for name in SIGNALS}
        for judge in seen.judges:
            log_probability = seen.log_probabilities(judge, self.temperatures)
            highest, label = log_probability.max(dim=1)
            asked = labels[: len(label)]
            columns[f"{judge}/right"] = right = label == asked
            columns[f"{judge}/confidence"] = highest.exp()
            # log(1 - p) by the other classes: p itself may be 1 but for rounding.
            others = log_probability.scatter(1, label.unsqueeze(1), -torch.inf).logsumexp(dim=1)
            columns[f"{judge}/nll"] = -torch.where(right, highest, others)
            own = asked.clamp(min=0).unsqueeze(1)
            gap = log_probability.exp().scatter_add(1, own, -torch.ones_like(own, dtype=torch.float64))
            for name, value in (
                ("class-nll", -log_probability.gather(1, own)[:, 0]),
                ("class-brier", gap.square().sum(dim=1)),
            ):
                columns[f"{judge}/{name}"] = value.where(asked != NO_CLASS, torch.nan)
        right = columns[f"{PLAIN}/right"]
        for judge, model in self.regressions.items():
            both = np.full((len(right), 2), np.nan)
            if model is not None:
                both = model.predict_log_proba(seen.features(judge, self.temperatures))
            wrong_log, right_log = torch.from_numpy(both).unbind(dim=1)
            columns[f"{judge}/right"], columns[f"{judge}/confidence"] = right.clone(), right_log.exp()
            columns[f"{judge}/nll"] = -torch.where(right, right_log, wrong_log)
        return columns
