"""Target of attacks on scores: a detector that raises an alarm where a score exceeds a threshold."""

from dataclasses import dataclass
from math import inf

from torch import Tensor

from vaecore._check import check_choice, check_mode, check_number, check_type
from vaecore._noise import seed_for
from vaecore.attacks._attack import Loss, Objective
from vaecore.models._networks import Classify
from vaecore.scoring._scores import FittedScores


@dataclass(frozen=True)
class ScoreDetector:
    """A detector that raises an alarm if a score exceeds `threshold`, as a target of attacks that hide from it.

    `pgd` and `square` take it in place of a classifier: `pgd(ScoreDetector(fitted, "mse"), images, labels, ...)`, where
    labels may be any. The attacker knows the models and what the score has learnt, all but the random numbers of its
    draws, which are drawn anew in each step (expectation over transformation, EOT; Athalye et al. 2018, section 4.2).
    It succeeds if the score is at most the threshold, and lowers it further; at minus infinity it never succeeds, and
    gives what it reached where asked to keep failures. Raises ValueError unless `name` is among the fitted scores.
    """

    fitted: FittedScores
    name: str
    threshold: float = -inf

    def __post_init__(self) -> None:
        check_type("fitted", self.fitted, FittedScores, "fit_scores(...)")
        check_mode(self.fitted, "the fitted scores", "their models")
        check_choice("name", self.name, self.fitted.names)
        check_number("threshold", self.threshold, lambda value: value < inf, "a number below infinity")

    @property
    def classifier(self) -> Classify:
        """The classifier, for the attacks' sanity checks; without one, a function that finds two classes alike."""
        return self.fitted.classifier or _undecided

    def objective(self, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int) -> Objective:  # noqa: ARG002  # labels play no part
        """The attacker's objective (see `vaecore.Victim`); an image's noise depends on (seed, index, step)."""

        def objective(points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            own_seed = seed_for(f"eot/{step}", seed)
            score = self.fitted.look(points, indices[rows], seed=own_seed, names=[self.name])[self.name]
            return score <= self.threshold, -score

        return objective


def _undecided(images: Tensor) -> Tensor:
    return images.new_zeros(len(images), 2)
