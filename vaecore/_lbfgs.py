"""The box-constrained L-BFGS attack of Szegedy et al. (2013), every image a problem of its own, all advanced at once.

For one image x and target t, the attack looks for the smallest weight c at which the minimiser of

    objective(z) = c * cross_entropy(z, t) + ||z - x||^2    subject to 0 <= z <= 1

is classified as t: the smaller c, the nearer the minimiser. Each image has its own c, point, step and curvature; what
is shared is only the clock: in each round every image spends one gradient of the classifier, in one batch.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from vaecore._attacks import (
    Attack,
    Classifier,
    check_chunk,
    check_classifier,
    differentiate,
    join,
    outcome,
    victim_flags,
    zero_gradient,
)
from vaecore._check import check_images, check_labels, check_logits

# Armijo's constant (Nocedal & Wright 2006, section 3.1), and the factor by which a rejected step is shortened.
_SUFFICIENT_DECREASE = 1e-4
_SHORTEN = 0.5
# Curvature below this share of ||change of gradient||^2 is rounding or a concave stretch, and would break the update;
# so would moves so small that the reciprocal of their curvature overflows.
_LEAST_CURVATURE = 1e-8
_LEAST_SQUARE = 1e-20
# c stays where c times a cross-entropy keeps clear of float32's ends.
_LEAST_CONSTANT, _GREATEST_CONSTANT = 1e-10, 1e10
# Rows are copied to close the gaps that finished images leave only when that saves more than it costs.
_COMPACT_BELOW = 0.75


@dataclass(frozen=True)
class _Settings:
    constants: int
    first_evaluations: int
    evaluations: int
    first_constant: float | None
    history: int
    tolerance: float
    confidence: float | None


@dataclass
class _Problems:
    """One row for each image still worked on; pixels are flattened."""

    row: Tensor  # (n,) the image's place in its chunk
    clean: Tensor  # (n, pixels)
    target: Tensor  # (n,)
    active: Tensor  # (n,) bool; the others wait to be dropped
    # The last accepted point: cross-entropy there, its gradient, and whether the target is predicted.
    point: Tensor  # (n, pixels)
    loss: Tensor  # (n,)
    slope: Tensor  # (n, pixels)
    hit: Tensor  # (n,) bool
    # The search over c: the value in use, the greatest that failed, the least that succeeded, how many were settled.
    constant: Tensor  # (n,)
    failed: Tensor  # (n,)
    succeeded: Tensor  # (n,)
    settled: Tensor  # (n,)
    # The descent at this c: the step length next tried, and the evaluations spent.
    step: Tensor  # (n,)
    spent: Tensor  # (n,)
    # The nearest success so far, and all evaluations spent.
    best: Tensor  # (n, pixels)
    best_square: Tensor  # (n,), infinite before the first success
    best_constant: Tensor  # (n,)
    evaluations: Tensor  # (n,)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


class _Curvature:
    """The last few moves and changes of gradient of each image: its inverse Hessian, as L-BFGS knows it.

    A ring over the rounds, the same for all images because all of them make one move a round; no history is copied
    when it turns. A pair whose curvature is not positive has weight 0, which skips it in that image alone.
    """

    def __init__(self, history: int, like: Tensor) -> None:
        self.moves = like.new_zeros(history, *like.shape)  # (history, n, pixels)
        self.changes = like.new_zeros(history, *like.shape)
        self.weights = like.new_zeros(history, len(like))  # 1 / (move . change)
        # 1/2 is exact for the ||z - x||^2 part, whose Hessian is 2 I, and serves until there is a pair.
        self.scale = like.new_full((len(like),), 0.5)
        self.rounds = 0

    def add(self, move: Tensor, change: Tensor) -> None:
        """Remember a move (n, pixels) and the change of the objective's gradient along it."""
        slot = self.rounds % len(self.moves)
        self.moves[slot], self.changes[slot] = move, change
        curvature, square = torch.linalg.vecdot(move, change), torch.linalg.vecdot(change, change)
        usable = (square > _LEAST_SQUARE) & (curvature > _LEAST_CURVATURE * square)
        self.weights[slot] = torch.where(usable, 1 / curvature, 0)
        self.scale = torch.where(usable, curvature / square, self.scale)
        self.rounds += 1

    def solve(self, gradient: Tensor) -> Tensor:
        """Inverse Hessian times gradient (n, pixels): the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4)."""
        history = len(self.moves)
        newest_first = [(self.rounds - 1 - age) % history for age in range(min(history, self.rounds))]
        product = gradient.clone()
        coefficients = {}
        for slot in newest_first:
            coefficients[slot] = self.weights[slot] * torch.linalg.vecdot(self.moves[slot], product)
            product.addcmul_(self.changes[slot], coefficients[slot].unsqueeze(1), value=-1)
        product *= self.scale.unsqueeze(1)
        for slot in reversed(newest_first):
            correction = coefficients[slot] - self.weights[slot] * torch.linalg.vecdot(self.changes[slot], product)
            product.addcmul_(self.moves[slot], correction.unsqueeze(1))
        return product

    def keep(self, rows: Tensor) -> None:
        """Drop all images but those in these rows."""
        self.moves, self.changes = self.moves[:, rows], self.changes[:, rows]
        self.weights, self.scale = self.weights[:, rows], self.scale[rows]


def lbfgs(
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    *,
    constants: int = 9,
    first_evaluations: int = 20,
    evaluations: int = 10,
    first_constant: float | None = None,
    history: int = 5,
    tolerance: float = 1e-3,
    confidence: float | None = None,
    chunk: int = 250,
) -> Attack:
    """The nearest images found that the classifier takes for the targets, by box-constrained L-BFGS.

    images: (n, 1, height, width) in [0, 1]. targets: (n,) int64, the class wanted of each image. Per image, `constants`
    values of c are tried: the first is `first_constant`, or else derived from the gradient at the image; c doubles,
    then quadruples, and so on, up after failures and down after successes, until one of each is known, and is their
    geometric mean from then on. The first c gets up to `first_evaluations` gradients, each later one, which starts
    where the last one ended, up to `evaluations`; a relative decrease below `tolerance` ends it early. `history` is
    the number of curvature pairs, `chunk` the number of images worked on at once, which changes no result but by
    rounding. confidence: the probability, above 0 and below 1, that the target must have for a success, so that images
    do not sit on the decision boundary (log(p / (1 - p)) is then taken off the target's logit in the cross-entropy, so
    that success begins at even odds); None asks only that the target is predicted.

    Returns an Attack with `constant`. Each image is the nearest of all points evaluated that are a success. A failure
    has the clean image, success False and NaN in l2, linf and constant. An image that is a success already has l2,
    linf and constant 0.
    Raises ValueError for bad input, a classifier in training mode, and logits or gradients that are not finite.
    Source: Szegedy et al. (2013), section 4.1; pixels at a bound are held there as in Bertsekas (1982).
    """
    check_images(images)
    check_labels(targets, len(images), name="targets")
    for name, count in [
        ("constants", constants),
        ("first_evaluations", first_evaluations),
        ("evaluations", evaluations),
        ("history", history),
    ]:
        if count < 1:
            raise ValueError(f"{name} must be 1 or more; got {count}")
    if first_constant is not None and not _LEAST_CONSTANT <= first_constant <= _GREATEST_CONSTANT:
        raise ValueError(
            f"first_constant must be from {_LEAST_CONSTANT:g} to {_GREATEST_CONSTANT:g}; got {first_constant}"
            " (None derives it from each image's gradient)"
        )
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and below 1; got {tolerance}")
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(
            f"confidence must be above 0 and below 1; got {confidence} (None asks only that the target is predicted)"
        )
    check_chunk(chunk)
    check_classifier(classifier)
    settings = _Settings(constants, first_evaluations, evaluations, first_constant, history, tolerance, confidence)
    flags = victim_flags(classifier, images)
    parts = [
        _attack_chunk(classifier, clean, target, settings, flags)
        for clean, target in zip(torch.split(images, chunk), torch.split(targets, chunk), strict=True)
    ]
    return join(parts)


def _attack_chunk(classifier: Classifier, images: Tensor, targets: Tensor, settings: _Settings, flags: int) -> Attack:
    """The attack on images that fit the memory together."""
    problems = _start(classifier, images, targets, settings)
    curvature = _Curvature(settings.history, problems.clean)
    first = zero_gradient(problems.slope) * problems.active
    best, constant = images.flatten(1).clone(), problems.best_constant.clone()
    success, evaluations = torch.zeros_like(targets, dtype=torch.bool), torch.zeros_like(targets)
    while True:
        rows = problems.active.nonzero().squeeze(1)
        if len(rows) < _COMPACT_BELOW * len(problems.active) or len(rows) == 0:
            best[problems.row], constant[problems.row] = problems.best, problems.best_constant
            success[problems.row], evaluations[problems.row] = problems.best_square.isfinite(), problems.evaluations
            if len(rows) == 0:
                break
            problems.keep(rows)
            curvature.keep(rows)
        _advance(classifier, problems, curvature, images.shape[1:], settings)
    return outcome(images, best.view_as(images), success, evaluations, first | flags, constant=constant)


def _evaluate(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: _Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether each point is a success (n,), its cross-entropy (n,) in nats, and that one's gradient."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        logits = classifier(leaf)
        check_logits(logits, len(images))
        check_labels(targets, len(images), classes=logits.shape[1], name="targets")
        if settings.confidence is None:
            hit, judged = logits.argmax(dim=1) == targets, logits
        else:
            # In float64, as a reader of the result would check it: a float32 cross-entropy near 0 has few digits.
            chance = cross_entropy(logits.detach().double(), targets, reduction="none").neg().exp()
            hit = chance >= settings.confidence
            # The target's logit less the log-odds of p: success begins at even odds, where the cross-entropy still
            # pulls; at p itself its slope would be 1 - p, and c as much greater.
            handicap = math.log(settings.confidence) - math.log1p(-settings.confidence)
            judged = logits - handicap * one_hot(targets, logits.shape[1])
        loss = cross_entropy(judged, targets, reduction="none")
        gradient = differentiate(loss, leaf)
    return hit, loss.detach(), gradient


def _start(classifier: Classifier, images: Tensor, targets: Tensor, settings: _Settings) -> _Problems:
    """All problems at their clean images, with the first c of each."""
    hit, loss, slope = _evaluate(classifier, images, targets, settings)
    clean, slope = images.flatten(1), slope.flatten(1)
    if settings.first_constant is None:
        # In a linear model the margin m is about the cross-entropy, and the class boundary lies m / ||slope|| away.
        # There the target has probability 1/2, so the minimiser is c / 2 * ||slope|| / 2 away: c = 4 m / ||slope||^2.
        square = torch.where(_held(clean, slope), 0, slope).square().sum(dim=1)
        constant = torch.where(square > 0, 4 * loss / square, 1).clamp(_LEAST_CONSTANT, _GREATEST_CONSTANT)
    else:
        constant = torch.full_like(loss, settings.first_constant)
    return _Problems(
        row=torch.arange(len(images), device=images.device),
        clean=clean,
        target=targets,
        active=~hit,
        point=clean.clone(),
        loss=loss,
        slope=slope,
        hit=hit,
        constant=constant,
        failed=torch.zeros_like(loss),
        succeeded=torch.full_like(loss, torch.inf),
        settled=torch.zeros_like(targets),
        step=torch.ones_like(loss),
        spent=torch.zeros_like(targets),
        best=clean.clone(),
        best_square=torch.where(hit, 0, torch.inf),
        best_constant=torch.where(hit, 0, torch.nan),
        evaluations=torch.ones_like(targets),
    )


def _held(point: Tensor, gradient: Tensor) -> Tensor:
    """Which pixels sit at a bound that descent would push them through."""
    return ((point <= 0) & (gradient > 0)) | ((point >= 1) & (gradient < 0))


def _advance(
    classifier: Classifier, now: _Problems, curvature: _Curvature, shape: torch.Size, settings: _Settings
) -> None:
    """One evaluation for every image: try a step, accept it or shorten it, and settle c where the descent is over."""
    gradient = now.constant.unsqueeze(1) * now.slope + 2 * (now.point - now.clean)
    value = now.constant * now.loss + (now.point - now.clean).square().sum(dim=1)

    # Newton's direction among the free pixels; those held at a bound stay, or the clipped step may go uphill.
    held = _held(now.point, gradient)
    direction = curvature.solve(gradient.masked_fill(held, 0)).masked_fill_(held, 0)
    trial = (now.point - now.step.unsqueeze(1) * direction).clamp_(0, 1)
    hit, loss, slope = _evaluate(classifier, trial.view(-1, *shape), now.target, settings)
    slope = slope.flatten(1)
    now.evaluations += now.active

    away = trial - now.clean
    square = away.square().sum(dim=1)
    trial_value = now.constant * loss + square
    better = hit & (square < now.best_square) & now.active
    now.best = torch.where(better.unsqueeze(1), trial, now.best)
    now.best_square = torch.where(better, square, now.best_square)
    now.best_constant = torch.where(better, now.constant, now.best_constant)

    # A rejected step has measured curvature too, and by using it the next direction needs less shortening.
    move = trial - now.point
    curvature.add(move, now.constant.unsqueeze(1) * slope + 2 * away - gradient)
    promised = -torch.linalg.vecdot(gradient, move)
    accepted = trial_value <= value - _SUFFICIENT_DECREASE * promised
    now.point = torch.where(accepted.unsqueeze(1), trial, now.point)
    now.slope = torch.where(accepted.unsqueeze(1), slope, now.slope)
    now.loss = torch.where(accepted, loss, now.loss)
    now.hit = torch.where(accepted, hit, now.hit)
    # At a minimum a full step neither brings nor promises anything; one that overshoots brings little, but promises.
    flat = accepted & (torch.maximum(value - trial_value, promised / now.step / 2) <= settings.tolerance * value)
    now.step = torch.where(accepted, 1, now.step * _SHORTEN)
    now.spent += 1

    allowed = torch.where(now.settled == 0, settings.first_evaluations, settings.evaluations)
    _settle(now, (flat | (now.spent >= allowed)) & now.active, settings)


def _settle(now: _Problems, over: Tensor, settings: _Settings) -> None:
    """Where the descent is over, note whether c sufficed and take the next c; the point and its gradient remain."""
    now.failed = torch.where(over & ~now.hit, now.constant, now.failed)
    now.succeeded = torch.where(over & now.hit, now.constant, now.succeeded)
    now.settled += over
    factor = torch.exp2(now.settled)
    following = torch.where(
        now.succeeded.isinf(),
        now.constant * factor,
        torch.where(now.failed == 0, now.constant / factor, (now.failed * now.succeeded).sqrt()),
    ).clamp(_LEAST_CONSTANT, _GREATEST_CONSTANT)
    now.constant = torch.where(over, following, now.constant)
    now.step = torch.where(over, 1, now.step)
    now.spent = torch.where(over, 0, now.spent)
    now.active = now.active & (now.settled < settings.constants)
