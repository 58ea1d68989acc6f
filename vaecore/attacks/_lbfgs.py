"""The box-constrained L-BFGS attack of Szegedy et al. (2013), on all images of a batch at once.

For each image x with target t, the attack looks for the smallest weight c at which the minimiser of

    objective(z) = c * cross_entropy(z, t) + ||z - x||^2    subject to 0 <= z <= 1

is classified as t; the smaller c, the nearer the minimiser. Other implementations minimise anew for each c. Here c is
updated during a single descent: each accepted point yields the c at which it would be the solution. Each image has its
own point, c, damping and curvature. In each round every image spends one gradient of the classifier, in one batch, and
the host does not wait for the device.

A descent ends in the nearest minimum, of which networks have many. A larger budget pays for detours: descents with
noise, momentum and falling steps, which pass many minima, and starts halfway between the two nearest successes.
"""

from dataclasses import dataclass, fields, replace
from math import log, log1p, sqrt
from typing import Self

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm
from torch.nn.functional import softplus

from vaecore._calls import ask
from vaecore._check import check_classifier, check_counts, check_images, check_labels, check_logits, check_number
from vaecore._modes import in_any_mode
from vaecore._noise import normal, seed_for
from vaecore.attacks._attack import (
    Attack,
    check_gradient,
    examine,
    input_gradient,
    join,
    outcome,
    zero_gradient,
)
from vaecore.models._networks import Classify

# Armijo's constant (Nocedal & Wright 2006, section 3.1).
_SUFFICIENT_DECREASE = 1e-4
# Damping multiplies 2 I, the Hessian of ||z - x||^2: doubled by a rejected step, halved by an accepted one.
_DAMP = 2.0
_GREATEST_DAMPING = 1e4
# Pairs of move and change of gradient.
_HISTORY = 5
# A pair is skipped if its curvature is below this share of ||change of gradient||^2 (rounding, or not convex), or if
# ||change of gradient||^2 is so small that the reciprocal of the curvature would overflow.
_LEAST_CURVATURE = 1e-8
_LEAST_SQUARE = 1e-20
# c is this factor above the value at which success begins, as descents end short of their minimum. Without success it
# doubles every so many rounds.
_SURPLUS = 1.05
_DOUBLING = 10
# c stays where c times a cross-entropy is within float32's range, and never aims nearer to the clean image than this
# share of the present distance.
_LEAST_CONSTANT, _GREATEST_CONSTANT = 1e-30, 1e10
_NEAREST_AIM = 0.05
_LEAST_SLOPE = 1e-12
# A success leads by this share of the largest logit, so that rounding in a batch of another size does not undo it.
_CLEARANCE = 1e-5
# A descent ends when its nearest success has not come nearer by this share for so many rounds.
_FALL, _PATIENCE = 2e-3, 15
# Evaluations without a gradient that move the nearest success to the decision boundary. Each aims to keep this share of
# the lead, as half of those that aim at no lead would fail by rounding.
_LANDINGS = 3
_KEPT_LEAD = 1e-3
# Gradients of the first descent, and of those that follow a detour and start halfway between two successes.
_FIRST, _AFTER_DETOUR, _HALFWAY = 28, 16, 16
# Further descents of images without success start at noise of this root mean square around the image.
_RETRIES = 3
_FAR = 0.3
# A detour: gradients; its first step, of one detour and the next by turns, and its last one, in root mean squares of
# the nearest perturbation; what a step keeps of
# the momentum and of the mean square of gradients (RMSProp) and what the multiplier keeps of itself, as in ALMA; the
# penalty, with odds in units of their slope; the noise at its start, in distances; the least root of a mean square, in
# the unit of steps.
_DETOUR = 36
_FIRST_STEPS, _LAST_STEP = (1.6, 4.8), 0.08
_MEMORY = 0.9
_PENALTY = 2.0
_SHAKE = 0.3
_LEAST_ROOT = 0.016
# Successes count as two if they are apart by this share of the distance.
_APART = 0.02
# Causes of an error.
_LOGITS, _GRADIENT = 1, 2
# Rounds between checks for finished images. Rows of finished images are dropped only when that saves more than copying
# the others costs.
_ROUNDS = 5
_COMPACT_BELOW = 0.75


@in_any_mode
def lbfgs(
    classifier: Classify,
    images: Tensor,
    targets: Tensor,
    *,
    targeted: bool = True,
    confidence: float | None = None,
    evaluations: int = 28,
    chunk: int | None = None,
) -> Attack:
    """The nearest images that the classifier takes for the targets, or no more for the labels, by constrained L-BFGS.

    images: (n, c, height, width) in [0, 1]. targets: (n,) int64, the class wanted for each image or, if not `targeted`,
    its label, to be left for any other class. confidence: the probability of the target, or of all classes but the
    label, above 0 and below 1, that counts as success, to avoid images on the decision boundary; None: success is a
    matter of the predicted class alone.

    evaluations: the effort, as gradients that each image may take. From 28 on, no image comes out farther for more. The
    first 28 are one descent, which ends early if fifteen in a row bring the image no nearer. Steps are Newton's with
    the Gauss-Newton matrix, corrected by L-BFGS and damped. After each step, c is set slightly above the value whose
    minimiser would just be a success if the log-odds were linear. The nearest success of all points evaluated is then
    moved towards the image, by three evaluations without gradient, until it only just is one. Images without success
    get up to three more such descents from noise, beyond the budget.
    Then, by turns: a detour of 36 steps from the nearest success, with momentum and noise, and a descent from its
    end (52 gradients together); and a descent from halfway between the two nearest successes (16). Each is done if the
    whole of it fits in, so that effort counts at 28, 80, 96, 148, 164 and so on. The noise is fixed, so results depend
    only on image and class.
    chunk: images attacked at once, as in `fgsm`, but 250 at most by default.

    Returns an Attack with `constant`, the estimate of the smallest sufficient c when the image was found. (With a
    confidence p, log(p / (1 - p)) is subtracted from the target's logit in the cross-entropy, so that success begins at
    even odds.) A failure has the clean image, success False and NaN in l2, linf and constant. An image that is already
    classified as its target has l2, linf and constant 0.
    Raises ValueError for invalid input, a classifier in training mode, and logits or gradients that are not finite, and
    TypeError for a victim that is no classifier as well: it gives no logits, and minimal changes of its noise would be
    taken for successes.
    Source: Szegedy et al. (2013), section 4.1; pixels at a bound are held as in Bertsekas (1982). Detours are close to
    ALMA (Rony et al. 2021, arXiv 2011.11857) on log-odds, at points with noise.
    """
    images = check_images(images)
    check_labels(targets, len(images), name="targets")
    if confidence is not None:
        remedy = "None asks only that the target is predicted"
        check_number("confidence", confidence, lambda value: 0 < value < 1, "above 0 and below 1", remedy)
    (evaluations,) = check_counts(evaluations=evaluations)
    if not callable(classifier):
        raise TypeError(
            f"lbfgs must be given a classifier, whose logits it asks for; got {type(classifier).__name__} (of victims,"
            " fgsm, pgd and square ask for success and loss alone)"
        )
    check_classifier(classifier)
    with torch.no_grad():
        flags, chunk = examine(classifier, images, chunk=chunk, most=250)
        parts = []
        for clean, aim in zip(torch.split(images, chunk), torch.split(targets, chunk), strict=True):
            judge = _Judge(classifier, clean.shape[1:], confidence, targeted=targeted)
            parts.append(_attack_chunk(judge, clean, aim, evaluations, flags))
        return join(parts)


@dataclass
class _Rows:
    """Tensors with one row for each image; pixels are flattened."""

    def at(self, rows: Tensor) -> Self:
        """Only these rows."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass
class _Verdict(_Rows):
    """The classifier's output at a point."""

    hit: Tensor  # (n,) bool, whether the point is a success
    lead: Tensor  # (n,) logits above the threshold of a clear success
    odds: Tensor  # (n,) log-odds of what is aimed at minus the handicap
    rise: Tensor  # (n, pixels) gradient of the log-odds


@dataclass
class _Nearest(_Rows):
    """The nearest success of each image."""

    point: Tensor  # (n, pixels)
    square: Tensor  # (n,) squared L2 norm of the perturbation, infinite where there is no success
    constant: Tensor  # (n,)
    evaluations: Tensor  # (n,) spent on the image, whether successful or not

    def put(self, rows: Tensor, other: Self) -> None:
        """Overwrite these rows."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def or_nearer(self, other: Self) -> "_Nearest":
        """The nearer of two for each image, with the evaluations of both."""
        nearer = other.square < self.square
        return _Nearest(
            torch.where(nearer.unsqueeze(1), other.point, self.point),
            torch.where(nearer, other.square, self.square),
            torch.where(nearer, other.constant, self.constant),
            self.evaluations + other.evaluations,
        )

    def apart(self, other: Self) -> Tensor:
        """Whether two successes of an image are more than rounding apart; (n,) bool."""
        distance: Tensor = vector_norm(self.point - other.point, dim=1)
        return distance > _APART * self.square.sqrt()


@dataclass
class _Descent(_Rows):
    """The state of each image's descent."""

    row: Tensor  # (n,) the image's position in its chunk
    clean: Tensor  # (n, pixels)
    aim: Tensor  # (n,) the class to reach or to leave
    active: Tensor  # (n,) bool; others wait to be dropped
    # The last accepted point, the classifier's output there, and the damping of the next step.
    point: Tensor  # (n, pixels)
    lead: Tensor  # (n,)
    odds: Tensor  # (n,)
    rise: Tensor  # (n, pixels)
    damping: Tensor  # (n,)
    # The nearest success of all points evaluated, its lead, and the lead's slope along the path from the clean image.
    best: Tensor  # (n, pixels)
    best_square: Tensor  # (n,), infinite before the first success
    best_constant: Tensor  # (n,)
    best_lead: Tensor  # (n,)
    best_pace: Tensor  # (n,) logits for the whole path, of the pixels between the bounds
    # The squared distance when it last fell enough, and that round.
    milestone: Tensor  # (n,)
    milestone_round: Tensor  # (n,)
    evaluations: Tensor  # (n,)

    def note(self, point: Tensor, verdict: _Verdict, constant: Tensor, rounds: int) -> Tensor:
        """Keep each point that is the nearest success so far; returns squared distances from the clean images."""
        away = point - self.clean
        square: Tensor = vecdot(away, away)
        self.evaluations = self.evaluations + self.active
        better = self.active & (verdict.lead >= 0) & (square < self.best_square)
        self.best = torch.where(better.unsqueeze(1), point, self.best)
        self.best_square = torch.where(better, square, self.best_square)
        self.best_constant = torch.where(better, constant, self.best_constant)
        self.best_lead = torch.where(better, verdict.lead, self.best_lead)
        self.best_pace = torch.where(better, vecdot(verdict.rise, _inside(point) * away), self.best_pace)
        fallen = self.best_square < self.milestone * (1 - _FALL) ** 2
        self.milestone = torch.where(fallen, self.best_square, self.milestone)
        self.milestone_round = torch.where(fallen, rounds, self.milestone_round)
        self.active = self.active & (self.best_square.isinf() | (rounds - self.milestone_round < _PATIENCE))
        return square


class _Judge:
    """Evaluates points by the classifier; the host waits for the device only in `check`."""

    def __init__(
        self, classifier: Classify, shape: torch.Size, confidence: float | None, *, targeted: bool = True
    ) -> None:
        self.classifier = classifier
        self.shape = shape
        self.confidence = confidence
        self.targeted = targeted
        # Subtracted from the log-odds, so that success begins at even odds, where the cross-entropy bends most.
        self.handicap = 0.0 if confidence is None else log(confidence) - log1p(-confidence)
        # 0 while all is finite, then the first cause of an error, as others may follow from it.
        self.trouble = torch.tensor(0)

    def look(self, points: Tensor, aims: Tensor, *, first: bool = False) -> _Verdict:
        """Evaluate points (n, pixels), with gradient."""
        with torch.enable_grad():
            leaf = points.detach().view(-1, *self.shape).requires_grad_()
            logits = ask(self.classifier, leaf)
            if first:
                check_logits(logits, len(points))
                check_labels(aims, len(points), classes=logits.shape[1], name="targets")
            hit, lead, odds = self._evaluate(logits, aims)
            rise = input_gradient(odds, leaf).flatten(1)
        self._watch(rise, _GRADIENT)
        return _Verdict(hit, lead.detach(), odds.detach(), rise)

    def lead(self, points: Tensor, aims: Tensor) -> Tensor:
        """The lead (n,) of points (n, pixels), without gradient."""
        return self._evaluate(ask(self.classifier, points.view(-1, *self.shape)), aims)[1]

    def check(self) -> None:
        """Raise ValueError if logits or gradients have not been finite."""
        trouble = int(self.trouble)
        broken = torch.full((1, 2), torch.nan)
        if trouble == _LOGITS:
            check_logits(broken, 1)
        elif trouble == _GRADIENT:
            check_gradient(broken)

    def _evaluate(self, logits: Tensor, aims: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._watch(logits.detach(), _LOGITS)
        column, sign = aims.unsqueeze(1), 1 if self.targeted else -1
        logit, others = logits.gather(1, column).squeeze(1), logits.scatter(1, column, -torch.inf)
        odds = sign * (logit - others.logsumexp(dim=1)) - self.handicap
        if self.confidence is None:
            hit, lead = (logits.argmax(dim=1) == aims) == self.targeted, sign * (logit - others.amax(dim=1))
        else:
            hit, lead = odds >= 0, odds
        return hit, lead - _CLEARANCE * logits.abs().amax(dim=1), odds

    def _watch(self, values: Tensor, cause: int) -> None:
        low, high = torch.aminmax(values)
        bad = ~(low.isfinite() & high.isfinite())
        self.trouble = torch.where(self.trouble == 0, cause * bad, self.trouble.to(bad.device))


class _Curvature:
    """L-BFGS's approximation of each image's inverse Hessian: the last few moves and changes of gradient.

    They are kept in a ring buffer over the rounds, in which all images make one move each. A pair without positive
    curvature is skipped for that image only.
    """

    def __init__(self, like: Tensor) -> None:
        self.moves = like.new_zeros(_HISTORY, *like.shape)  # (history, n, pixels)
        self.changes = torch.zeros_like(self.moves)
        self.squares = like.new_zeros(_HISTORY, len(like))  # move . move
        self.curvatures = torch.zeros_like(self.squares)  # move . change, infinite if skipped
        self.rounds = 0

    def add(self, move: Tensor, change: Tensor) -> None:
        """Add a move (n, pixels) and the change of the objective's gradient along it."""
        slot = self.rounds % _HISTORY
        self.moves[slot], self.changes[slot], self.squares[slot] = move, change, vecdot(move, move)
        curvature, square = vecdot(move, change), vecdot(change, change)
        usable = (square > _LEAST_SQUARE) & (curvature > _LEAST_CURVATURE * square)
        self.curvatures[slot] = torch.where(usable, curvature, torch.inf)
        self.rounds += 1

    def solve(self, gradient: Tensor, extra: Tensor, axis: Tensor, stiffness: Tensor) -> Tensor:
        """Inverse Hessian times gradient (n, pixels): the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4).

        The Hessian starts from 2 I + stiffness * axis axis'. Damping adds extra * I to it and to the changes.
        extra, stiffness: (n,). axis: (n, pixels).
        """
        product, extra_column = gradient.clone(), extra.unsqueeze(1)
        pairs = []
        for age in range(min(_HISTORY, self.rounds)):
            slot = (self.rounds - 1 - age) % _HISTORY
            move, weight = self.moves[slot], 1 / (self.curvatures[slot] + extra * self.squares[slot])
            change = torch.addcmul(self.changes[slot], move, extra_column)
            coefficient = weight * vecdot(move, product)
            product.addcmul_(change, coefficient.unsqueeze(1), value=-1)
            pairs.append((move, change, weight, coefficient))
        ridge = 2 + extra
        along = stiffness * vecdot(axis, product) / (ridge + stiffness * vecdot(axis, axis))  # Sherman-Morrison
        product.addcmul_(axis, along.unsqueeze(1), value=-1).div_(ridge.unsqueeze(1))
        for move, change, weight, coefficient in reversed(pairs):
            product.addcmul_(move, (coefficient - weight * vecdot(change, product)).unsqueeze(1))
        return product

    def keep(self, rows: Tensor) -> None:
        """Keep only the images in these rows."""
        self.moves, self.changes = self.moves[:, rows], self.changes[:, rows]
        self.squares, self.curvatures = self.squares[:, rows], self.curvatures[:, rows]


def _attack_chunk(judge: _Judge, images: Tensor, aims: Tensor, evaluations: int, flags: int) -> Attack:
    """Attack images that fit into memory together."""
    clean = images.flatten(1)
    first = judge.look(clean, aims, first=True)
    judge.check()
    zero = torch.zeros_like(first.odds)
    result = _Nearest(clean.clone(), torch.where(first.hit, zero, torch.inf), zero, torch.ones_like(aims))
    rows = (~first.hit).nonzero().squeeze(1)
    if len(rows) > 0:
        centres, aim, shortest = clean[rows], aims[rows], min(evaluations, _FIRST)
        nearest = _descend(judge, centres, centres, aim, first.at(rows), shortest)
        for retry in range(_RETRIES):
            again = nearest.square.isinf().nonzero().squeeze(1)
            if len(again) == 0:
                break
            start, so_far = _noisy(centres[again], retry), nearest.at(again)
            other = _descend(judge, centres[again], start, aim[again], judge.look(start, aim[again]), shortest)
            nearest.put(again, so_far.or_nearer(other))
        result.put(rows, _come_nearer(judge, centres, aim, nearest, evaluations - _FIRST))
    success = result.square.isfinite()
    constant = result.constant.where(success, torch.nan)
    row_flags = zero_gradient(first.rise) * ~first.hit | flags
    return outcome(images, result.point.view_as(images), success, result.evaluations, row_flags, constant=constant)


def _come_nearer(judge: _Judge, clean: Tensor, aims: Tensor, nearest: _Nearest, budget: int) -> _Nearest:
    """The nearest successes after further descents, by turns after a detour and from halfway between two successes."""
    second, turn = nearest, 0
    while budget >= (cost := _HALFWAY if turn % 2 else _DETOUR + _AFTER_DETOUR):
        success = nearest.square.isfinite().unsqueeze(1)
        if turn % 2:
            between = torch.lerp(nearest.point, second.point, 0.5)
            start = torch.where(success, between, _noisy(clean, _RETRIES + turn))
            other = _descend(judge, clean, start, aims, judge.look(start, aims), _HALFWAY)
        else:
            start = torch.where(success, nearest.point, _noisy(clean, _RETRIES + turn))
            noise = _directions(clean, f"lbfgs/detour/{turn}", _DETOUR)
            first_step = _FIRST_STEPS[turn // 2 % len(_FIRST_STEPS)]
            end, verdict = _detour(judge, clean, start, aims, noise, first_step)
            other = _descend(judge, clean, end, aims, verdict, _AFTER_DETOUR)
            other.evaluations += _DETOUR
        nearer = other.square < nearest.square
        closer = torch.where(nearer, nearest.square, other.square) < second.square
        replaced = nearest.apart(other) & (nearer | closer | ~nearest.apart(second))
        loser = torch.where((replaced & nearer).unsqueeze(1), nearest.point, other.point)
        second = _Nearest(
            torch.where(replaced.unsqueeze(1), loser, second.point),
            torch.where(replaced, torch.where(nearer, nearest.square, other.square), second.square),
            second.constant,
            second.evaluations,
        )
        nearest = nearest.or_nearer(other)
        budget, turn = budget - cost, turn + 1
    return nearest


def _noisy(clean: Tensor, number: int) -> Tensor:
    """The images plus noise in a random direction that is the same for all."""
    return (clean + _FAR * sqrt(clean.shape[1]) * _directions(clean, f"lbfgs/{number}", 1)).clamp_(0, 1)


def _directions(clean: Tensor, name: str, count: int) -> Tensor:
    """Random directions of length 1, (count, pixels), which are always the same."""
    index = torch.zeros(1, dtype=torch.int64, device=clean.device)
    noise = normal(seed_for(name, 0), index, draws=count, size=clean.shape[1])[0]
    directions: Tensor = noise / vector_norm(noise, dim=1, keepdim=True)
    return directions


def _detour(
    judge: _Judge, clean: Tensor, start: Tensor, aims: Tensor, noise: Tensor, first_step: float
) -> tuple[Tensor, _Verdict]:
    """The end (n, pixels) of a descent from `start` that does not stay in its minimum, and what is there.

    It minimises ||z - x||^2 / 2 where the odds are even or better, by the augmented Lagrangian (Nocedal & Wright 2006,
    section 17.3) with odds in units of their slope, that is as distances. Steps are RMSProp's with momentum and fall
    geometrically. Around each point `noise`, a direction for each step, smooths the odds, and falls to nothing.
    """
    pixels = clean.shape[1]
    point, verdict = start, judge.look(start, aims)
    multiplier = vector_norm(point - clean, dim=1)
    unit = (multiplier / sqrt(pixels)).unsqueeze(1)
    momentum, mean_square = torch.zeros_like(clean), torch.zeros_like(clean)
    for step in range(_DETOUR):
        slope = vector_norm(verdict.rise, dim=1).clamp(min=_LEAST_SLOPE)
        pull = (multiplier - _PENALTY * verdict.odds / slope).clamp(0, sqrt(pixels))
        multiplier = torch.lerp(pull, multiplier, _MEMORY)
        gradient = ((point - clean).addcmul_((pull / slope).unsqueeze(1), verdict.rise, value=-1)) / unit
        mean_square = torch.lerp(gradient.square(), mean_square, _MEMORY if step else 0.0)
        momentum = momentum.mul_(_MEMORY).addcdiv_(gradient, mean_square.sqrt().add_(_LEAST_ROOT))
        size = first_step * (_LAST_STEP / first_step) ** (step / (_DETOUR - 1))
        point = torch.addcmul(point, momentum, unit, value=-size).clamp_(0, 1)
        shake = _SHAKE * (1 - (step + 1) / _DETOUR) * vector_norm(point - clean, dim=1)
        verdict = judge.look(torch.addcmul(point, shake.unsqueeze(1), noise[step]).clamp_(0, 1), aims)
    return point, verdict


def _descend(
    judge: _Judge, clean: Tensor, start: Tensor, aims: Tensor, verdict: _Verdict, evaluations: int
) -> _Nearest:
    """The nearest success of a descent from `start`, (n, pixels), whose evaluation is `verdict`."""
    zero, zero_count = torch.zeros_like(verdict.odds), torch.zeros_like(aims)
    infinite = torch.full_like(zero, torch.inf)
    result = _Nearest(clean.clone(), infinite.clone(), zero.clone(), zero_count.clone())
    descent = _Descent(
        row=torch.arange(len(clean), device=clean.device),
        clean=clean,
        aim=aims,
        active=torch.ones_like(verdict.hit),
        point=start,
        lead=verdict.lead,
        odds=verdict.odds,
        rise=verdict.rise,
        damping=torch.ones_like(zero),
        best=clean,
        best_square=infinite,
        best_constant=zero,
        best_lead=zero,
        best_pace=zero,
        milestone=infinite,
        milestone_round=zero_count,
        evaluations=zero_count,
    )
    descent.note(start, verdict, _smallest_constant(descent), 0)
    curvature = _Curvature(clean)
    rounds = 0
    while True:
        judge.check()
        if rounds == evaluations - 1:
            descent.active = torch.zeros_like(descent.active)
        active = descent.active.nonzero().squeeze(1)
        if len(active) < _COMPACT_BELOW * len(descent.active) or len(active) == 0:
            finished = descent.at((~descent.active).nonzero().squeeze(1))
            result.put(finished.row, _land(judge, finished))
            if len(active) == 0:
                judge.check()
                return result
            descent = descent.at(active)
            curvature.keep(active)
        for _ in range(min(_ROUNDS, evaluations - 1 - rounds)):
            rounds += 1
            _advance(judge, descent, curvature, rounds)


def _inside(point: Tensor) -> Tensor:
    """1 for pixels strictly between 0 and 1, else 0; float."""
    return ((point > 0) & (point < 1)).to(point.dtype)


def _free(point: Tensor, gradient: Tensor) -> Tensor:
    """0 for pixels at a bound that descent would push further, else 1; float."""
    held = ((point <= 0) & (gradient > 0)) | ((point >= 1) & (gradient < 0))
    return (~held).to(gradient.dtype)


def _smallest_constant(descent: _Descent) -> Tensor:
    """The c whose minimiser would lie where success begins, if the log-odds were linear; (n,)."""
    # Only pixels that can move count, along `rise`, over a distance `way`. At its end the gradients of the two terms of
    # the objective cancel: c * (1 - p) * slope = 2 * way. If the log-odds of p grow as the lead does, they are
    # odds - lead there: 0 with one rival class, less with several. Values above 0 come from the clearance or, where any
    # class but one will do, from the choice among several; they count as 0.
    free = _free(descent.point, -descent.rise)
    slope = vector_norm(descent.rise * free, dim=1).clamp(min=_LEAST_SLOPE)
    away = vector_norm((descent.point - descent.clean) * free, dim=1)
    way = torch.maximum(away - descent.lead / slope, _NEAREST_AIM * away)
    constant: Tensor = 2 * way / (slope * torch.sigmoid((descent.lead - descent.odds).clamp(min=0)))
    return constant.clamp(_LEAST_CONSTANT, _GREATEST_CONSTANT)


def _gradient(constant: Tensor, point: Tensor, clean: Tensor, odds: Tensor, rise: Tensor) -> Tensor:
    """The objective's gradient (n, pixels); that of the cross-entropy is -(1 - p) times that of the log-odds."""
    return (2 * (point - clean)).addcmul_((constant * torch.sigmoid(-odds)).unsqueeze(1), rise, value=-1)


def _advance(judge: _Judge, descent: _Descent, curvature: _Curvature, rounds: int) -> None:
    """One round: try a step for every image, and accept it or damp the next."""
    smallest = _smallest_constant(descent)
    constant = smallest * torch.where(descent.best_square.isinf(), _SURPLUS * 2 ** (rounds / _DOUBLING), _SURPLUS)
    gradient = _gradient(constant, descent.point, descent.clean, descent.odds, descent.rise)
    away = descent.point - descent.clean
    value = constant * softplus(-descent.odds) + vecdot(away, away)

    # Newton's direction for the free pixels only; if those at a bound moved, the clipped step could go uphill.
    free = _free(descent.point, gradient)
    # Gauss-Newton: with linear log-odds, the cross-entropy's Hessian is p (1 - p) times rise rise'.
    stiffness = constant * torch.sigmoid(descent.odds) * torch.sigmoid(-descent.odds)
    direction = curvature.solve(gradient * free, 2 * (descent.damping - 1), descent.rise * free, stiffness)
    trial = torch.addcmul(descent.point, direction, free, value=-1).clamp_(0, 1)
    verdict = judge.look(trial, descent.aim)
    square = descent.note(trial, verdict, smallest, rounds)

    # A rejected step measures curvature, too; with it the next direction needs less damping.
    move = trial - descent.point
    curvature.add(move, _gradient(constant, trial, descent.clean, verdict.odds, verdict.rise) - gradient)
    trial_value = constant * softplus(-verdict.odds) + square
    accepted = trial_value <= value + _SUFFICIENT_DECREASE * vecdot(gradient, move)
    descent.point = torch.where(accepted.unsqueeze(1), trial, descent.point)
    descent.rise = torch.where(accepted.unsqueeze(1), verdict.rise, descent.rise)
    descent.lead = torch.where(accepted, verdict.lead, descent.lead)
    descent.odds = torch.where(accepted, verdict.odds, descent.odds)
    descent.damping = torch.where(accepted, descent.damping / _DAMP, descent.damping * _DAMP).clamp_(
        1, _GREATEST_DAMPING
    )


def _land(judge: _Judge, finished: _Descent) -> _Nearest:
    """Move each nearest success towards the clean image until it only just is one, by the method of false position."""
    # Pixels at a bound stay there, as the bound cut their path short.
    path = _inside(finished.best) * (finished.best - finished.clean)
    base = finished.best - path
    has_success = finished.best_square.isfinite()
    point, share, lead = finished.best, torch.ones_like(finished.best_lead), finished.best_lead
    # The failing end of the bracket: at first the start of the path, with its lead if leads were linear.
    short, short_lead = torch.zeros_like(share), (lead - finished.best_pace).clamp(max=-_LEAST_SLOPE)
    for _ in range(_LANDINGS):
        tried = share - (1 - _KEPT_LEAD) * (share - short) * lead / (lead - short_lead)
        trial = torch.addcmul(base, tried.unsqueeze(1), path).clamp_(0, 1)
        trial_lead = judge.lead(trial, finished.aim)
        success = has_success & (trial_lead >= 0)
        point = torch.where(success.unsqueeze(1), trial, point)
        short, short_lead = torch.where(success, short, tried), torch.where(success, short_lead, trial_lead)
        share, lead = torch.where(success, tried, share), torch.where(success, trial_lead, lead)
    square = torch.where(has_success, (point - finished.clean).square().sum(dim=1), torch.inf)
    return _Nearest(point, square, finished.best_constant, finished.evaluations + _LANDINGS * has_success)
