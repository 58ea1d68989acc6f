"""Alarms at fixed rates of false ones: whether each score raises one, by a threshold from images held out.

An AUROC averages over all thresholds, and flatters a detector whose attacker needs to pass one alone. Here the
threshold is one that a share of FALSE_ALARMS of clean images exceeds; the number of labels has rates of its own.
"""

from collections.abc import Sequence

import torch

from vaecore import distinct_labels
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.draws import DRAWS
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.kinds import FALSE_ALARMS, MAGNET, MOST_LABELS
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, stack
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Tensors


class Raised(Evidence):
    """Evidence from alarms under a condition of the protocol; columns as `raise_alarms` describes them."""

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run."""
        drawn, each = DRAWS.tasks(setup, condition), len(setup.shards(self.count(setup, condition)))
        return [
            Task(
                raise_alarms,
                {},
                {
                    "drawn": tuple(drawn[each * number : each * (number + 1)]),
                    "thresholds": setup.thresholds(number),
                },
                "alarms",
                f"alarms, {setup.protocol.name(condition)}",
            )
            for number in range(len(setup.seeds))
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:  # noqa: ARG002
        """As `raise_alarms` describes them."""
        return stack(results)


RAISED = Raised()


def raise_alarms(drawn: tuple[Tensors, ...], thresholds: Tensors) -> Tensors:
    """Whether each alarm is raised for an image, (n,) bool; a task.

    drawn: what `draws.look` gives. "<score>-<rate>": the score is above its threshold at a rate of false alarms.
    "labels-<most>": reconstructions get more labels than that. wrong: the classifier's label is not the image's.
    """
    seen = {name: torch.cat([part[name] for part in drawn]) for name in drawn[0]}
    values = {
        "mse": seen["draw_mse"].double().mean(dim=1),
        "disagreement": 1 - seen["draw_own_probability"].double().mean(dim=1),
        "max-softmax": 1 - seen["confidence"],
        **{name: seen[name] for name in MAGNET},
    }
    raised = {
        f"{name}-{rate:g}": values[name] > threshold
        for name in values
        for rate, threshold in zip(FALSE_ALARMS, thresholds[name], strict=True)
    }
    labels = distinct_labels(seen["draw_label"])
    raised |= {f"labels-{most}": labels > most for most in MOST_LABELS}
    return raised | {"wrong": seen["predicted"] != seen["label"]}
