"""Projected gradient descent with planned steps, and Auto-PGD, which adapts them to each image."""

from dataclasses import dataclass
from itertools import pairwise
from math import inf

import torch
from torch import Tensor

from vaecore._check import check_counts, check_number, check_type
from vaecore._modes import in_any_mode
from vaecore._noise import image_indices, normal, seed_for, uniform
from vaecore.attacks._attack import (
    Attack,
    Loss,
    Norm,
    Objective,
    Project,
    Victim,
    check_aims,
    check_budget,
    examine,
    gradient_of,
    objective_of,
    outcome,
    projection,
    steepest,
    wide,
    zero_gradient,
)
from vaecore.models._networks import Classify

# Auto-PGD (Croce & Hein 2020, section 3).
_NEW = 0.75  # share of the new step; the rest is momentum
_RISING = 0.75  # share of steps that must raise the loss, or the step size is halved

_Result = tuple[Tensor, Tensor, Tensor, Tensor]  # points (m, c, h, w), won (m,), loss (m,), first gradient's flags (m,)


@in_any_mode
def pgd(
    classifier: Classify | Victim,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    seed: int,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    shrinking: bool = False,
    momentum: float = 0.0,
    random_start: bool = True,
    restarts: int = 1,
    targets: Tensor | None = None,
    loss: Loss = "cross-entropy",
    keep_failed: bool = False,
    first_index: int = 0,
    indices: Tensor | None = None,
    chunk: int | None = None,
) -> Attack:
    """Steps that raise the loss, each projected on the ball of radius epsilon around the image and clipped to [0, 1].

    images: (n, c, height, width) in [0, 1]. labels: (n,) int64, the true classes. targets: (n,) int64, classes to
    reach; without, success means that the label is not predicted, also if it was not before. loss: "cross-entropy",
    "margin", the largest other logit minus the label's, or "dlr", the margin over a difference of the largest logits.

    step_size: of every step, in the units of epsilon; the result is the last point. shrinking: only of the first step;
    the others shrink linearly, to 0. momentum: share, from 0 and below 1, of the last direction that a step keeps; each
    gradient counts divided by its mean absolute value (Dong et al. 2018, equation 6). Both steady an attack whose loss
    is noisy. step_size=None is Auto-PGD, which takes neither: steps start at 2 epsilon, with a momentum of their own,
    and are halved for an image whose loss no longer rises, which also returns to its best point. The result is the best
    point: a success before a failure, then the higher loss. A randomised victim is better attacked with a `step_size`,
    since the best of points that were seen with different draws is the luckiest.
    random_start: start from a uniform point of the ball, which depends only on `seed`, the image's index and the
    restart. Image i has index `first_index` + i, or `indices[i]`, (n,) int64. restarts: attempts for each image without
    success; of failures, the one with the highest loss is kept.

    keep_failed, chunk: as in `fgsm`.
    Evaluations are gradients, `steps` for each restart. Raises ValueError for invalid input, a classifier in training
    mode, and logits or gradients that are not finite.
    Source: Madry et al. (2018), section 2.1; Croce & Hein (2020), algorithm 1.
    """
    images, aims = check_aims(images, labels, targets)
    check_budget(epsilon, norm, images[0].numel())
    steps, restarts = check_counts(steps=steps, restarts=restarts)
    if step_size is not None:
        remedy = "None adapts it to each image"
        check_number("step_size", step_size, lambda value: 0 < value < inf, "above 0, and finite", remedy)
    check_number("momentum", momentum, lambda value: 0 <= value < 1, "from 0 and below 1")
    check_type("shrinking", shrinking, bool)
    if step_size is None and (shrinking or momentum):
        raise ValueError("shrinking steps and momentum must have a step_size; got None, which sets its own (Auto-PGD)")
    if restarts > 1 and not random_start:
        raise ValueError(
            f"restarts must be 1 without a random start; got {restarts} (each would repeat the first from the image)"
        )
    with torch.no_grad():
        index = image_indices(len(images), first_index, indices).to(images.device)
        objective = objective_of(classifier, aims, targeted=targets is not None, loss=loss, indices=index, seed=seed)
        flag, chunk = examine(classifier, images, objective, chunk=chunk)
        flags = torch.full_like(aims, flag)
        points, evaluations = images.clone(), torch.zeros_like(aims)
        success, highest = torch.zeros_like(aims, dtype=torch.bool), torch.full_like(images[:, 0, 0, 0], -inf)
        for restart in range(restarts):
            for rows in torch.split((~success).nonzero().squeeze(1), chunk):
                if len(rows) == 0:
                    break
                clean = images[rows]
                project = projection(clean, epsilon, norm)
                start = clean.clone()
                if random_start:
                    offset = _uniform_in_ball(seed_for(f"pgd/start/{restart}", seed), index[rows], clean, norm)
                    start = project(start.add_(offset, alpha=epsilon))
                climb = _Climb(objective, rows, project, norm, steps, first_step=restart * (steps + 1))
                if step_size is None:
                    end, won, end_loss, first_flags = climb.adaptive(start, 2 * epsilon)
                else:
                    end, won, end_loss, first_flags = climb.planned(start, step_size, momentum, shrinking=shrinking)
                better = won | (end_loss > highest[rows])
                improved = rows[better]
                points[improved], highest[improved], success[improved] = end[better], end_loss[better], won[better]
                evaluations[rows] += steps
                if restart == 0:
                    flags[rows] |= first_flags
        return outcome(images, points, success, evaluations, flags, keep_failed=keep_failed)


def _uniform_in_ball(seed: int, indices: Tensor, like: Tensor, norm: Norm) -> Tensor:
    """A uniform point of the unit ball for each image, in the shape of `like`, from the seed and the image's index."""
    pixels = like[0].numel()
    if norm == "linf":
        return (uniform(seed, indices, draws=1, size=pixels) * 2 - 1).view(like.shape)
    # All but two coordinates of a uniform point on a sphere are uniform in the ball (Voelker et al. 2017).
    sphere = normal(seed, indices, draws=1, size=pixels + 2).squeeze(1)
    sphere /= torch.linalg.vector_norm(sphere, dim=1, keepdim=True)
    return sphere[:, :pixels].reshape(like.shape)


@dataclass(frozen=True)
class _Climb:
    """One attempt on a chunk of images; rows: (m,), their positions in the attacked batch."""

    objective: Objective
    rows: Tensor
    project: Project
    norm: Norm
    steps: int
    first_step: int

    def planned(self, point: Tensor, size: float, momentum: float, *, shrinking: bool) -> _Result:
        """Take steps of planned sizes from `point`, which is overwritten; returns the last point."""
        first, direction = torch.zeros_like(self.rows), torch.zeros_like(point)
        for step in range(self.steps):
            _, _, gradient = self._gradient(point, step)
            if step == 0:
                first = zero_gradient(gradient)
            if momentum:
                scale = gradient.abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
                gradient = direction = torch.add(gradient / scale, direction, alpha=momentum)
            now = size * (1 - step / self.steps) if shrinking else size
            self.project(point.add_(steepest(gradient, self.norm), alpha=now))
        won, loss = self.objective(point, self.rows, self.first_step + self.steps)
        return point, won, loss, first

    def adaptive(self, start: Tensor, size: float) -> _Result:
        """Auto-PGD with steps of `size` at first; returns the best point."""
        won, loss, gradient = self._gradient(start, 0)
        first = zero_gradient(gradient)
        point = previous = best = start
        best_won, best_loss, best_gradient = won, loss, gradient
        sizes, halved = torch.full_like(loss, size), torch.zeros_like(won)
        # Since the last checkpoint: how often the loss rose, and whether the best point improved.
        rises, improved = torch.zeros_like(self.rows), torch.zeros_like(won)
        windows = _windows(self.steps)
        for step in range(1, self.steps + 1):
            moved = self.project(torch.addcmul(point, wide(sizes), steepest(gradient, self.norm)))
            if step > 1:
                moved.mul_(_NEW).add_(point, alpha=2 * (1 - _NEW)).sub_(previous, alpha=1 - _NEW)
                self.project(moved)
            previous, point, before = point, moved, loss
            if step == self.steps:
                won, loss = self.objective(point, self.rows, self.first_step + step)
            else:
                won, loss, gradient = self._gradient(point, step)
            rises += loss > before
            # A success is never replaced by a failure with a higher loss.
            better = (won & ~best_won) | ((won == best_won) & (loss > best_loss))
            improved |= better
            best, best_gradient = point.where(wide(better), best), gradient.where(wide(better), best_gradient)
            best_won, best_loss = best_won | won, loss.where(better, best_loss)
            if step in windows:
                halved = (rises < _RISING * windows[step]) | ~(halved | improved)
                sizes = torch.where(halved, sizes / 2, sizes)
                point, gradient = best.where(wide(halved), point), best_gradient.where(wide(halved), gradient)
                loss = best_loss.where(halved, loss)
                rises, improved = torch.zeros_like(rises), torch.zeros_like(improved)
        return best, best_won, best_loss, first

    def _gradient(self, points: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        return gradient_of(self.objective, points, self.rows, self.first_step + step)


def _windows(steps: int) -> dict[int, int]:
    """Auto-PGD's checkpoints: each step after which it may halve the step size, and the steps since the last one."""
    # In integer hundredths, as sums of floats would be rounded up wrongly.
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    return {stop: stop - start for start, stop in pairwise(sorted({-(-share * steps // 100) for share in shares}))}
