"""What claims ask for by name: kinds of evidence, for `Study.table(condition, of=...)`, and alarms. Imports no torch.

The code of a kind, which does, is imported by the study that looks at it: tests of claims are collected without it.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaecore.suite.study.evidence import Evidence


@dataclass(frozen=True)
class KindOfEvidence:
    """A kind of evidence: its name in a module of `vaecore.suite.study`."""

    module: str
    name: str

    @property
    def evidence(self) -> "Evidence":
        """What computes it."""
        evidence: Evidence = getattr(import_module(f"vaecore.suite.study.{self.module}"), self.name)
        return evidence


RAISED = KindOfEvidence("alarms", "RAISED")
ATTACKED = KindOfEvidence("cleaning", "ATTACKED")
CLEANING = KindOfEvidence("cleaning", "CLEANING")
DECISIONS = KindOfEvidence("decisions", "DECISIONS")
DRAWS = KindOfEvidence("draws", "DRAWS")
MANY_DRAWS = KindOfEvidence("draws", "MANY_DRAWS")
LEVELS = KindOfEvidence("levels", "LEVELS")
ABROAD = KindOfEvidence("outside", "ABROAD")
HIDING = KindOfEvidence("outside", "HIDING")
P_VALUES = KindOfEvidence("outside", "P_VALUES")
SCORES = KindOfEvidence("outside", "SCORES")
CERTIFICATES = KindOfEvidence("smoothing", "CERTIFICATES")
SQUEEZING = KindOfEvidence("squeezing", "SQUEEZING")
YARDSTICK = KindOfEvidence("yardstick", "YARDSTICK")

ALARMS = ("mse", "disagreement", "max-softmax")  # scores that an alarm is raised by
MAGNET = ("magnet-error", "magnet-divergence")  # MagNet's own alarms, which stand apart
FALSE_ALARMS = (0.01, 0.05, 0.1)  # shares of clean images on which alarms may be raised
MOST_LABELS = (1, 2)  # more distinct labels than these raise an alarm: for some 11 and 2 in 100 clean images of MNIST
ALARM_RATE = 0.05  # share of images inside at which it is said what share outside is found


def all_alarms(rate: float) -> list[str]:
    """The columns of RAISED of all alarms at one of FALSE_ALARMS, and that of labels which is nearest to it."""
    labels = MOST_LABELS[0 if rate == FALSE_ALARMS[-1] else 1]
    return [f"labels-{labels}", *(f"{score}-{rate:g}" for score in ALARMS)]
