"""Square Attack: a random search without gradients, which masked gradients cannot mislead."""

from bisect import bisect_left
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from vaecore._check import check_counts
from vaecore._modes import in_any_mode
from vaecore._noise import image_indices, seed_for, signs, words
from vaecore.attacks._attack import (
    Attack,
    Loss,
    Objective,
    Victim,
    box,
    check_aims,
    check_budget,
    examine,
    join,
    objective_of,
    outcome,
)
from vaecore.models._networks import Classify

# Andriushchenko et al. 2020, section 4, with the first share of AutoAttack (Croce & Hein 2020).
_FIRST_SHARE = 0.8  # share of pixels that the first squares cover
_HALVED_AT = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)  # queries, of 10,000, after which it is halved
_DRAWN_AT_ONCE = 100  # queries whose random numbers are drawn together


@in_any_mode
def square(
    classifier: Classify | Victim,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    seed: int,
    queries: int = 1000,
    targets: Tensor | None = None,
    loss: Loss = "margin",
    keep_failed: bool = False,
    first_index: int = 0,
    indices: Tensor | None = None,
    chunk: int | None = None,
) -> Attack:
    """Change random squares by +epsilon or -epsilon, clipped to [0, 1], and keep the changes that raise the loss.

    images: (n, c, height, width) in [0, 1]. labels: (n,) int64, the true classes. targets: (n,) int64, classes
    to reach; without, success means that the label is not predicted. The first query adds vertical stripes of random
    signs; each later query changes a square of the best point so far, with a random sign for each channel. Squares
    shrink as the image uses up its `queries`. An image ends at its first success; for a failure the result is the point
    of the highest loss (`loss` as in `pgd`). Random numbers depend only on `seed` and the image's index: `first_index`
    + i for image i, or `indices[i]`, (n,) int64.

    A randomised victim answers all queries about an image with the same draws, those of step 0: of new draws, the
    search would keep the luckiest. Success is then success on these draws; judge it by others.

    keep_failed, chunk: as in `fgsm`.
    Evaluations are queries. Raises ValueError for invalid input, a classifier in training mode and logits that are not
    finite.
    Source: Andriushchenko et al. (2020), algorithms 1 and 2. A square that would change nothing gets the other sign,
    where the authors' code draws again.
    """
    images, aims = check_aims(images, labels, targets)
    check_budget(epsilon, "linf", images[0].numel())
    (queries,) = check_counts(queries=queries)
    index = image_indices(len(images), first_index, indices).to(images.device)
    objective = objective_of(classifier, aims, targeted=targets is not None, loss=loss, indices=index, seed=seed)
    flag, chunk = examine(classifier, images, objective, chunk=chunk)
    flags = torch.full_like(aims, flag)
    searches = _Searches(objective, index, epsilon, seed, queries)
    parts = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(images), device=images.device), chunk):
            points, success, spent = searches.run(images[rows], rows)
            parts.append(outcome(images[rows], points, success, spent, flags[rows], keep_failed=keep_failed))
    return join(parts)


@dataclass(frozen=True)
class _Searches:
    """Random searches, one for each image, with joint queries; index: (n,), of each image, for its random numbers."""

    objective: Objective
    index: Tensor
    epsilon: float
    seed: int
    queries: int

    def run(self, clean: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Best points (m, c, h, w), success (m,) and queries spent (m,); rows: the images' positions in the batch."""
        points, success, spent = clean.clone(), torch.zeros_like(rows, dtype=torch.bool), torch.zeros_like(rows)
        # For the images still without success: positions in the chunk, bounds of each pixel, best point and its loss.
        live = torch.arange(len(rows), device=rows.device)
        low, high = box(clean, self.epsilon)
        best, best_loss = clean, torch.full_like(clean[:, 0, 0, 0], -torch.inf)
        for query in range(self.queries):
            index = self.index[rows[live]]
            if query % _DRAWN_AT_ONCE == 0:
                block = seed_for(f"square/squares/{query // _DRAWN_AT_ONCE}", self.seed)
                drawn = words(block, index, draws=_DRAWN_AT_ONCE, size=3)
            if query == 0:
                _, channels, _, width = clean.shape
                stripes = signs(seed_for("square/stripes", self.seed), index, draws=1, size=channels * width)
                trial = torch.where(stripes.view(-1, channels, 1, width) > 0, high, low)
            else:
                side = _side(query, self.queries, clean.shape[2], clean.shape[3])
                trial = _put_square(best, low, high, side, drawn[:, query % _DRAWN_AT_ONCE])
            won, loss = self.objective(trial, rows[live], 0)
            spent[live] += 1
            better = won | (loss > best_loss)
            best, best_loss = trial.where(better.view(-1, 1, 1, 1), best), loss.where(better, best_loss)
            if bool(won.any()):
                points[live[won]], success[live[won]] = best[won], True
                live, low, high, best, best_loss, drawn = (
                    values[~won] for values in (live, low, high, best, best_loss, drawn)
                )
                if len(live) == 0:
                    break
        points[live] = best
        return points, success, spent


def _side(query: int, queries: int, height: int, width: int) -> int:
    """The side of a query's square, in pixels."""
    halvings = bisect_left(_HALVED_AT, query * 10_000 / queries)
    side = round(sqrt(_FIRST_SHARE / 2**halvings * height * width))
    return max(1, min(side, height, width))


def _put_square(points: Tensor, low: Tensor, high: Tensor, side: int, drawn: Tensor) -> Tensor:
    """The points with a random square set to `low` or `high` in each; drawn: (m, 3) random 32-bit words."""

    def covered(size: int, word: Tensor) -> Tensor:
        first = (word * (size - side + 1) >> 32).unsqueeze(1)  # uniform on 0 to size - side
        place = torch.arange(size, device=word.device)
        return (place >= first) & (place < first + side)

    channels, height, width = points.shape[1:]
    square = covered(height, drawn[:, 0]).view(-1, 1, height, 1) & covered(width, drawn[:, 1]).view(-1, 1, 1, width)
    bits = 31 - torch.arange(channels, device=drawn.device)  # one bit of the word is the sign for one channel
    up = (drawn[:, 2:] >> bits & 1 == 1).view(-1, channels, 1, 1)
    changed = torch.where(square, torch.where(up, high, low), points)
    unchanged = (changed == points).flatten(1).all(dim=1).view(-1, 1, 1, 1)
    return torch.where(square & unchanged, torch.where(up, low, high), changed)
