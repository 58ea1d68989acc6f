"""An attack on classifiers behind rounding: a discrete search over the pixels that can be moved to another level."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vaecore._batch_sizes import answers
from vaecore._check import check_counts
from vaecore._modes import in_any_mode
from vaecore._noise import image_indices, seed_for, uniform
from vaecore.attacks._attack import (
    Attack,
    Objective,
    box,
    check_aims,
    check_budget,
    classifier_objective,
    examine,
    gradient_of,
    likely_classes,
    outcome,
    parts_of,
    wide,
)
from vaecore.models._networks import Classify

_AT_ONCE = (1, 2, 4, 8, 16, 32)  # pixels that the trials of a step move
_KICKED = 0.1  # share of pixels that are moved at random where no trial is better


@in_any_mode
def flips(
    classifier: Classify,
    images: Tensor,
    labels: Tensor,
    *,
    rounding: Callable[[Tensor], Tensor],
    epsilon: float,
    seed: int,
    steps: int = 20,
    targets: int = 3,
    keep_failed: bool = False,
    first_index: int = 0,
    indices: Tensor | None = None,
    chunk: int | None = None,
) -> Attack:
    """A search for pixels that, moved to another level within epsilon, fool a classifier behind `rounding`.

    images: (n, c, height, width) in [0, 1]. labels: (n,) int64, the true classes; success means that the rounded image
    is not given its label. rounding: maps images to images, each pixel alone and never falling, as `Threshold` and
    `BitDepth` do; else ValueError. So a pixel is lowered by epsilon, stays, or is raised, and most give the same level
    each time. Each of `steps` steps ranks moves by the gradient at the rounded image, tries the first 1, 2, 4, ... 32
    of them, and takes the best trial. Where none gains, the search goes on from the best point so far with a tenth of
    its pixels at random levels. It is made with the margin of the label, then with that of each of `targets` classes,
    most likely first. Evaluations are gradients and trials; the other arguments and errors are those of `pgd`.
    """
    images, _ = check_aims(images, labels, None)
    check_budget(epsilon, "linf", images[0].numel())
    steps, targets = check_counts(steps=steps, targets=targets)
    if parts_of(classifier)[1] is not None:
        raise TypeError(f"flips must be given the classifier behind the rounding; got {type(classifier).__name__}")
    index = image_indices(len(images), first_index, indices).to(images.device)
    with torch.no_grad():
        levels = _Levels.of(rounding, images, epsilon)
        logits = answers(classifier, levels.middle)
        likely = likely_classes(logits, labels)
        flag, chunk = examine(classifier, levels.middle, chunk=chunk)
        flags = torch.full_like(labels, flag)
        points, success, spent = images.clone(), torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(labels)
        for attempt in range(1 + min(targets, logits.shape[1] - 1)):
            aims = labels if attempt == 0 else likely[:, attempt - 1]
            objective = classifier_objective(classifier, aims, targeted=attempt > 0, loss="margin")
            for rows in torch.split((~success).nonzero().squeeze(1), chunk):
                if len(rows) == 0:
                    break
                own_seed = seed_for(f"flips/{attempt}", seed)
                found, won = _Search(objective, rows, levels.take(rows), index[rows], own_seed).run(steps)
                kept = won | (attempt == 0)
                points[rows[kept]], success[rows[won]] = found[kept], True
                spent[rows] += steps * (1 + len(_AT_ONCE))
        return outcome(images, points, success, spent, flags, keep_failed=keep_failed)


@dataclass(frozen=True)
class _Levels:
    """Pixels lowered, as they are and raised, and what rounding makes of each; all (n, c, h, w)."""

    low: Tensor
    clean: Tensor
    high: Tensor
    floor: Tensor
    middle: Tensor
    ceiling: Tensor

    @classmethod
    def of(cls, rounding: Callable[[Tensor], Tensor], clean: Tensor, epsilon: float) -> "_Levels":
        low, high = box(clean, epsilon)
        floor, middle, ceiling = (rounding(points.clone()) for points in (low, clean, high))
        every_other = torch.arange(clean[0].numel(), device=clean.device).view(clean.shape[1:]) % 2 == 0
        mixed = rounding(torch.where(every_other, high, low))
        rises = (floor <= middle) & (middle <= ceiling)
        if mixed.shape != clean.shape or not bool((rises & (mixed == torch.where(every_other, ceiling, floor))).all()):
            raise ValueError(
                "rounding must map each pixel alone, and never to less as it rises; this one does not (a filter or a"
                " model looks at neighbours: attack it with pgd through Purified)"
            )
        return cls(low, clean, high, floor, middle, ceiling)

    def take(self, rows: Tensor) -> "_Levels":
        """Those of some images."""
        return _Levels(*(getattr(self, field.name)[rows] for field in fields(self)))

    def images(self, rounded: Tensor) -> Tensor:
        """Images, within the budget, that are rounded to the given ones."""
        moved = torch.where(rounded == self.floor, self.low, self.high)
        return torch.where(rounded == self.middle, self.clean, moved)


@dataclass(frozen=True)
class _Search:
    """One search on a chunk of images; rows: (m,), their positions in the attacked batch; index: for random numbers."""

    objective: Objective
    rows: Tensor
    levels: _Levels
    index: Tensor
    seed: int

    def run(self, steps: int) -> tuple[Tensor, Tensor]:
        """Images that are rounded to the best points, (m, c, h, w), and whether these won, (m,)."""
        point = best = self.levels.middle
        best_won, best_loss = (
            torch.zeros_like(self.rows, dtype=torch.bool),
            torch.full_like(point[:, 0, 0, 0], -torch.inf),
        )
        for step in range(steps):
            moved, won, loss, gained = self._climb(point)
            better = (won & ~best_won) | ((won == best_won) & (loss > best_loss))
            best, best_loss, best_won = (
                moved.where(wide(better), best),
                loss.where(better, best_loss),
                best_won | won,
            )
            point = moved.where(wide(gained), self._kicked(best, step))
        return self.levels.images(best), best_won

    def _climb(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best of the point and its trials, whether it won, its loss, and whether it is a trial."""
        levels, count = self.levels, len(point)
        won, loss, gradient = gradient_of(self.objective, point, self.rows, 0)
        up, down = gradient * (levels.ceiling - point), gradient * (levels.floor - point)
        gain = torch.maximum(up, down)
        rank = gain.flatten(1).argsort(dim=1, descending=True).argsort(dim=1).view_as(point)
        moves = torch.where(up >= down, levels.ceiling, levels.floor).where(gain > 0, point)
        tried = torch.cat([point, *(moves.where(rank < width, point) for width in _AT_ONCE)])
        trial_won, trial_loss = self.objective(tried[count:], self.rows.repeat(len(_AT_ONCE)), 0)
        losses, wins = (torch.cat(pair).view(-1, count) for pair in ((loss, trial_loss), (won, trial_won)))
        # A trial that wins comes before one that does not.
        first = (losses + torch.where(wins, losses.max() - losses.min() + 1, 0)).argmax(dim=0)
        at = torch.arange(count, device=point.device)
        return tried.view(-1, *point.shape)[first, at], wins[first, at], losses[first, at], first > 0

    def _kicked(self, point: Tensor, step: int) -> Tensor:
        """The point with some pixels at random levels."""
        chosen, side = uniform(seed_for(f"kick/{step}", self.seed), self.index, draws=2, size=point[0].numel()).unbind(
            1
        )
        ends = torch.where(side.view_as(point) < 0.5, self.levels.floor, self.levels.ceiling)
        return ends.where(chosen.view_as(point) < _KICKED, point)
