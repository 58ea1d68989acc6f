"""The box-constrained L-BFGS attack of Szegedy et al. (2013), every image a problem of its own, all advanced at once.

For one image x and target t, the attack looks for the smallest weight c at which the minimiser of

    objective(z) = c * cross_entropy(z, t) + ||z - x||^2    subject to 0 <= z <= 1

is classified as t: the smaller c, the nearer the minimiser. Others minimise anew for one c after another; here c
follows a single descent, as every accepted point tells at which c it would be the answer. Each image has its own point,
c, damping and curvature. What is shared is only the clock: in each round every image spends one gradient of the
classifier, in one batch, and the host does not wait for the device.
"""

from dataclasses import dataclass, fields, replace
from math import log, log1p, sqrt
from typing import Self

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm
from torch.nn.functional import softplus

from vaecore._check import check_classifier, check_images, check_labels, check_logits
from vaecore._noise import normal, seed_for
from vaecore.attacks._attack import (
    Attack,
    check_chunk,
    check_gradient,
    input_gradient,
    join,
    outcome,
    victim_flags,
    zero_gradient,
)
from vaecore.models._networks import Classify

# Armijo's constant (Nocedal & Wright 2006, section 3.1).
_SUFFICIENT_DECREASE = 1e-4
# Damping multiplies the 2 I that is the Hessian of ||z - x||^2. A rejected step doubles it, an accepted one halves it.
_DAMP = 2.0
_GREATEST_DAMPING = 1e4
# Pairs of move and change of gradient.
_HISTORY = 5
# Curvature below this share of ||change of gradient||^2 is rounding or a concave stretch, and would break the update;
# so would moves so small that the reciprocal of their curvature overflows.
_LEAST_CURVATURE = 1e-8
_LEAST_SQUARE = 1e-20
# c is a little greater than where success just begins, as descents end short of their minimum. Without success it
# doubles every so many rounds.
_SURPLUS = 1.05
_DOUBLING = 10
# c stays where c times a cross-entropy keeps clear of float32's ends, and never aims nearer to the clean image than at
# this share of the present distance.
_LEAST_CONSTANT, _GREATEST_CONSTANT = 1e-30, 1e10
_NEAREST_AIM = 0.05
_LEAST_SLOPE = 1e-12
# A success leads by this share of the largest logit, lest rounding in a batch of another size take it back.
_CLEARANCE = 1e-5
# A descent is over when its nearest success has not come nearer by this share for so many rounds.
_FALL, _PATIENCE = 2e-3, 15
# Evaluations without a gradient that bring the nearest success to the decision boundary. Each keeps this share of the
# lead: an aim at no lead at all would fail by rounding every other time.
_LANDINGS = 3
_KEPT = 1e-3
# Descents after the first: of images without success, and of all if the attack is to be thorough. They start at noise
# of this root mean square around the image, or of this many times the nearest success's distance around that.
_RETRIES, _RESTARTS = 3, 5
_FAR, _ASTRAY = 0.3, 2.5
# Kinds of trouble.
_LOGITS, _GRADIENT = 1, 2
# Rounds between two looks at what is over. Rows are copied to close the gaps that finished images leave only when that
# saves more than it costs.
_ROUNDS = 5
_COMPACT_BELOW = 0.75


def lbfgs(
    classifier: Classify,
    images: Tensor,
    targets: Tensor,
    *,
    confidence: float | None = None,
    thorough: bool = False,
    evaluations: int = 28,
    chunk: int = 250,
) -> Attack:
    """The nearest images found that the classifier takes for the targets, by box-constrained L-BFGS.

    images: (n, c, height, width) in [0, 1]. targets: (n,) int64, the class wanted of each image. confidence: the
    probability, above 0 and below 1, that the target must have for a success, so that images do not sit on the decision
    boundary; None asks only that the target is predicted.

    An image gets up to `evaluations` gradients, fewer where fifteen in a row bring it no nearer. Each step is Newton's
    with the Gauss-Newton matrix, corrected by L-BFGS and damped. After each, c is a little greater than that whose
    minimiser would only just be a success, were the target's log-odds linear. Of all points evaluated, the nearest
    success is then drawn towards the image, by three evaluations without a gradient, until it only just is one. Where
    there is none, up to three more such descents start from noise.
    thorough: five more descents for every image, each from noise around the nearest success so far; the nearest of all
    counts. The noise is always the same: a result depends on nothing but image and target.
    chunk: the number of images worked on at once, which bounds memory and changes no result but by rounding.

    Returns an Attack with `constant`, the smallest c that would do, by the estimate with which the image was found (of
    a cross-entropy that, with a confidence p, has log(p / (1 - p)) taken off the target's logit, so that success begins
    at even odds). A failure has the clean image, success False and NaN in l2, linf and constant. An image that is a
    success already has l2, linf and constant 0.
    Raises ValueError for bad input, a classifier in training mode, and logits or gradients that are not finite.
    Source: Szegedy et al. (2013), section 4.1; pixels at a bound are held there as in Bertsekas (1982).
    """
    check_images(images)
    check_labels(targets, len(images), name="targets")
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(
            f"confidence must be above 0 and below 1; got {confidence} (None asks only that the target is predicted)"
        )
    if evaluations < 1:
        raise ValueError(f"evaluations must be 1 or more; got {evaluations}")
    check_chunk(chunk)
    check_classifier(classifier)
    # Autograd refuses tensors made in inference mode; copies made outside it will do.
    with torch.inference_mode(mode=False), torch.no_grad():
        images, targets = images.clone(), targets.clone()
        flags = victim_flags(classifier, images)
        parts = []
        for clean, target in zip(torch.split(images, chunk), torch.split(targets, chunk), strict=True):
            judge = _Judge(classifier, clean.shape[1:], confidence)
            parts.append(_attack_chunk(judge, clean, target, evaluations, flags, thorough=thorough))
        return join(parts)


@dataclass
class _Rows:
    """Tensors with one row for each image; pixels are flattened."""

    def at(self, rows: Tensor) -> Self:
        """These rows alone."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass
class _Verdict(_Rows):
    """What the classifier says of a point."""

    hit: Tensor  # (n,) bool, a success, if only by rounding
    lead: Tensor  # (n,) by how much the point is a clear success, in logits; below 0 it is none
    odds: Tensor  # (n,) log-odds of the target, less its handicap
    rise: Tensor  # (n, pixels) gradient of the log-odds


@dataclass
class _Found(_Rows):
    """The nearest success of an image."""

    point: Tensor  # (n, pixels)
    square: Tensor  # (n,) squared L2 norm of the perturbation, infinite where there is no success
    constant: Tensor  # (n,)
    evaluations: Tensor  # (n,) spent on the image, also without success

    def put(self, rows: Tensor, other: Self) -> None:
        """Overwrite these rows with others."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def or_nearer(self, other: Self) -> "_Found":
        """The nearer of two, image by image; the evaluations of both."""
        nearer = other.square < self.square
        return _Found(
            torch.where(nearer.unsqueeze(1), other.point, self.point),
            torch.where(nearer, other.square, self.square),
            torch.where(nearer, other.constant, self.constant),
            self.evaluations + other.evaluations,
        )


@dataclass
class _Descent(_Rows):
    """An image on its way."""

    row: Tensor  # (n,) the image's place in its chunk
    clean: Tensor  # (n, pixels)
    target: Tensor  # (n,)
    active: Tensor  # (n,) bool; the others wait to be dropped
    # The last accepted point, what is said of it, and the damping of the next step.
    point: Tensor  # (n, pixels)
    lead: Tensor  # (n,)
    odds: Tensor  # (n,)
    rise: Tensor  # (n, pixels)
    damping: Tensor  # (n,)
    # The nearest success of all points evaluated, its lead, and how fast that grows along the way from the clean image.
    best: Tensor  # (n, pixels)
    best_square: Tensor  # (n,), infinite before the first success
    best_constant: Tensor  # (n,)
    best_lead: Tensor  # (n,)
    best_pace: Tensor  # (n,) logits for the whole way, of the pixels not at a bound
    # The squared norm when it last fell by enough, and the round.
    milestone: Tensor  # (n,)
    milestone_round: Tensor  # (n,)
    evaluations: Tensor  # (n,)

    def note(self, point: Tensor, verdict: _Verdict, constant: Tensor, now: int) -> Tensor:
        """Keep a point if it is the nearest success so far; returns its squared distance from the clean image."""
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
        self.milestone_round = torch.where(fallen, now, self.milestone_round)
        self.active = self.active & (self.best_square.isinf() | (now - self.milestone_round < _PATIENCE))
        return square


class _Judge:
    """The classifier's word on whether points are a success; the host does not wait for it, but in `check`."""

    def __init__(self, classifier: Classify, shape: torch.Size, confidence: float | None) -> None:
        self.classifier = classifier
        self.shape = shape
        self.confidence = confidence
        # Taken off the target's logit: success then begins at even odds, where the cross-entropy bends most.
        self.handicap = 0.0 if confidence is None else log(confidence) - log1p(-confidence)
        # 0 as long as everything has been finite; then what was the first not to be, as the other follows from it.
        self.trouble = torch.tensor(0)

    def look(self, points: Tensor, targets: Tensor, *, first: bool = False) -> _Verdict:
        """Verdict with gradient; points: (n, pixels)."""
        with torch.enable_grad():
            leaf = points.detach().view(-1, *self.shape).requires_grad_()
            logits = self.classifier(leaf)
            if first:
                check_logits(logits, len(points))
                check_labels(targets, len(points), classes=logits.shape[1], name="targets")
            hit, lead, odds = self._weigh(logits, targets)
            rise = input_gradient(odds, leaf).flatten(1)
        self._examine(rise, _GRADIENT)
        return _Verdict(hit, lead.detach(), odds.detach(), rise)

    def lead(self, points: Tensor, targets: Tensor) -> Tensor:
        """As in `look`, (n,), without the gradient."""
        return self._weigh(self.classifier(points.view(-1, *self.shape)), targets)[1]

    def check(self) -> None:
        """Raise ValueError if logits or gradients have not been finite."""
        trouble = int(self.trouble)
        broken = torch.full((1, 2), torch.nan)
        if trouble == _LOGITS:
            check_logits(broken, 1)
        elif trouble == _GRADIENT:
            check_gradient(broken)

    def _weigh(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._examine(logits.detach(), _LOGITS)
        column = targets.unsqueeze(1)
        own, others = logits.gather(1, column).squeeze(1), logits.scatter(1, column, -torch.inf)
        odds = own - others.logsumexp(dim=1) - self.handicap
        if self.confidence is None:
            hit, lead = logits.argmax(dim=1) == targets, own - others.amax(dim=1)
        else:
            hit, lead = odds >= 0, odds
        return hit, lead - _CLEARANCE * logits.abs().amax(dim=1), odds

    def _examine(self, values: Tensor, kind: int) -> None:
        low, high = torch.aminmax(values)
        bad = ~(low.isfinite() & high.isfinite())
        self.trouble = torch.where(self.trouble == 0, kind * bad, self.trouble.to(bad.device))


class _Curvature:
    """The last few moves and changes of gradient of each image: what L-BFGS knows of its inverse Hessian.

    A ring over the rounds, the same for all images because all of them make one move a round; no history is copied
    when it turns. A pair whose curvature is not positive is skipped in that image alone.
    """

    def __init__(self, like: Tensor) -> None:
        self.moves = like.new_zeros(_HISTORY, *like.shape)  # (history, n, pixels)
        self.changes = torch.zeros_like(self.moves)
        self.squares = like.new_zeros(_HISTORY, len(like))  # move . move
        self.curvatures = torch.zeros_like(self.squares)  # move . change, infinite for a pair to be skipped
        self.rounds = 0

    def add(self, move: Tensor, change: Tensor) -> None:
        """Remember a move (n, pixels) and the change of the objective's gradient along it."""
        slot = self.rounds % _HISTORY
        self.moves[slot], self.changes[slot], self.squares[slot] = move, change, vecdot(move, move)
        curvature, square = vecdot(move, change), vecdot(change, change)
        usable = (square > _LEAST_SQUARE) & (curvature > _LEAST_CURVATURE * square)
        self.curvatures[slot] = torch.where(usable, curvature, torch.inf)
        self.rounds += 1

    def solve(self, gradient: Tensor, extra: Tensor, axis: Tensor, stiffness: Tensor) -> Tensor:
        """Inverse Hessian times gradient (n, pixels): the two-loop recursion (Nocedal & Wright 2006, algorithm 7.4).

        The Hessian is built on 2 I + stiffness * axis axis', and damped by adding extra * I, to the changes of gradient
        too. extra, stiffness: (n,). axis: (n, pixels).
        """
        product, each = gradient.clone(), extra.unsqueeze(1)
        used = []
        for age in range(min(_HISTORY, self.rounds)):
            slot = (self.rounds - 1 - age) % _HISTORY
            move, weight = self.moves[slot], 1 / (self.curvatures[slot] + extra * self.squares[slot])
            change = torch.addcmul(self.changes[slot], move, each)
            coefficient = weight * vecdot(move, product)
            product.addcmul_(change, coefficient.unsqueeze(1), value=-1)
            used.append((move, change, weight, coefficient))
        ridge = 2 + extra
        along = stiffness * vecdot(axis, product) / (ridge + stiffness * vecdot(axis, axis))  # Sherman-Morrison
        product.addcmul_(axis, along.unsqueeze(1), value=-1).div_(ridge.unsqueeze(1))
        for move, change, weight, coefficient in reversed(used):
            product.addcmul_(move, (coefficient - weight * vecdot(change, product)).unsqueeze(1))
        return product

    def keep(self, rows: Tensor) -> None:
        """Drop all images but those in these rows."""
        self.moves, self.changes = self.moves[:, rows], self.changes[:, rows]
        self.squares, self.curvatures = self.squares[:, rows], self.curvatures[:, rows]


def _attack_chunk(
    judge: _Judge, images: Tensor, targets: Tensor, evaluations: int, flags: int, *, thorough: bool
) -> Attack:
    """The attack on images that fit the memory together."""
    clean = images.flatten(1)
    first = judge.look(clean, targets, first=True)
    judge.check()
    zero = torch.zeros_like(first.odds)
    found = _Found(clean.clone(), torch.where(first.hit, zero, torch.inf), zero, torch.ones_like(targets))
    rows = (~first.hit).nonzero().squeeze(1)
    if len(rows) > 0:
        some, target = clean[rows], targets[rows]
        nearest = _descend(judge, some, some, target, first.at(rows), evaluations)
        for restart in range(_RESTARTS if thorough else _RETRIES):
            again = (nearest.square.isinf() | thorough).nonzero().squeeze(1)
            if len(again) == 0:
                break
            so_far, centre, aim = nearest.at(again), some[again], target[again]
            start = _astray(so_far, restart)
            other = _descend(judge, centre, start, aim, judge.look(start, aim), evaluations)
            nearest.put(again, so_far.or_nearer(other))
        found.put(rows, nearest)
    success = found.square.isfinite()
    constant = found.constant.where(success, torch.nan)
    each = zero_gradient(first.rise) * ~first.hit | flags
    return outcome(images, found.point.view_as(images), success, found.evaluations, each, constant=constant)


def _astray(found: _Found, restart: int) -> Tensor:
    """Where a restart sets out: at a random direction, the same for all images, from what has been found."""
    pixels = found.point.shape[1]
    one = torch.zeros(1, dtype=torch.int64, device=found.point.device)
    noise = normal(seed_for(f"lbfgs/{restart}", 0), one, draws=1, size=pixels)[0]
    distance = torch.where(found.square.isinf(), _FAR * sqrt(pixels), _ASTRAY * found.square.sqrt())
    start: Tensor = found.point + distance.unsqueeze(1) * (noise / vector_norm(noise))
    return start.clamp_(0, 1)


def _descend(
    judge: _Judge, clean: Tensor, start: Tensor, targets: Tensor, verdict: _Verdict, evaluations: int
) -> _Found:
    """The nearest success on the way from `start`, (n, pixels), of which `verdict` speaks."""
    zero, none = torch.zeros_like(verdict.odds), torch.zeros_like(targets)
    infinite = torch.full_like(zero, torch.inf)
    found = _Found(clean.clone(), infinite.clone(), zero.clone(), none.clone())
    now = _Descent(
        row=torch.arange(len(clean), device=clean.device),
        clean=clean,
        target=targets,
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
        milestone_round=none,
        evaluations=none,
    )
    now.note(start, verdict, _smallest_constant(now), 0)
    curvature = _Curvature(clean)
    rounds = 0
    while True:
        judge.check()
        if rounds == evaluations - 1:
            now.active = torch.zeros_like(now.active)
        going = now.active.nonzero().squeeze(1)
        if len(going) < _COMPACT_BELOW * len(now.active) or len(going) == 0:
            finished = now.at((~now.active).nonzero().squeeze(1))
            found.put(finished.row, _land(judge, finished))
            if len(going) == 0:
                judge.check()
                return found
            now = now.at(going)
            curvature.keep(going)
        for _ in range(min(_ROUNDS, evaluations - 1 - rounds)):
            rounds += 1
            _advance(judge, now, curvature, rounds)


def _inside(point: Tensor) -> Tensor:
    """1 for pixels between the bounds, else 0; float."""
    return ((point > 0) & (point < 1)).to(point.dtype)


def _free(point: Tensor, gradient: Tensor) -> Tensor:
    """0 for pixels that sit at a bound through which descent would push them, else 1; float."""
    held = ((point <= 0) & (gradient > 0)) | ((point >= 1) & (gradient < 0))
    return (~held).to(gradient.dtype)


def _smallest_constant(now: _Descent) -> Tensor:
    """The c whose minimiser would lie where success begins, if the log-odds were linear; (n,)."""
    # The way there is along the rise, of the pixels that can move. At its end the gradients of the objective's parts
    # cancel: c * (1 - p) * slope = 2 * way, where the log-odds of p, if they grow as the lead does, are odds - lead.
    # They are 0 where the target has one rival, less where it has more; above 0 is but the clearance of a success.
    free = _free(now.point, -now.rise)
    slope = vector_norm(now.rise * free, dim=1).clamp(min=_LEAST_SLOPE)
    away = vector_norm((now.point - now.clean) * free, dim=1)
    way = torch.maximum(away - now.lead / slope, _NEAREST_AIM * away)
    constant: Tensor = 2 * way / (slope * torch.sigmoid((now.lead - now.odds).clamp(min=0)))
    return constant.clamp(_LEAST_CONSTANT, _GREATEST_CONSTANT)


def _gradient(constant: Tensor, point: Tensor, clean: Tensor, odds: Tensor, rise: Tensor) -> Tensor:
    """The objective's gradient (n, pixels); that of the cross-entropy is -(1 - p) times the rise of the log-odds."""
    return (2 * (point - clean)).addcmul_((constant * torch.sigmoid(-odds)).unsqueeze(1), rise, value=-1)


def _advance(judge: _Judge, now: _Descent, curvature: _Curvature, rounds: int) -> None:
    """One evaluation for every image: try a step, and accept it or damp the next."""
    smallest = _smallest_constant(now)
    constant = smallest * torch.where(now.best_square.isinf(), _SURPLUS * 2 ** (rounds / _DOUBLING), _SURPLUS)
    gradient = _gradient(constant, now.point, now.clean, now.odds, now.rise)
    away = now.point - now.clean
    value = constant * softplus(-now.odds) + vecdot(away, away)

    # Newton's direction among the free pixels; those held at a bound stay, or the clipped step may go uphill.
    free = _free(now.point, gradient)
    # Gauss-Newton: as if the log-odds were linear, the cross-entropy's Hessian is p (1 - p) times rise rise'.
    stiffness = constant * torch.sigmoid(now.odds) * torch.sigmoid(-now.odds)
    direction = curvature.solve(gradient * free, 2 * (now.damping - 1), now.rise * free, stiffness)
    trial = torch.addcmul(now.point, direction, free, value=-1).clamp_(0, 1)
    verdict = judge.look(trial, now.target)
    square = now.note(trial, verdict, smallest, rounds)

    # A rejected step has measured curvature too, and by using it the next direction needs less damping.
    move = trial - now.point
    curvature.add(move, _gradient(constant, trial, now.clean, verdict.odds, verdict.rise) - gradient)
    trial_value = constant * softplus(-verdict.odds) + square
    accepted = trial_value <= value + _SUFFICIENT_DECREASE * vecdot(gradient, move)
    now.point = torch.where(accepted.unsqueeze(1), trial, now.point)
    now.rise = torch.where(accepted.unsqueeze(1), verdict.rise, now.rise)
    now.lead = torch.where(accepted, verdict.lead, now.lead)
    now.odds = torch.where(accepted, verdict.odds, now.odds)
    now.damping = torch.where(accepted, now.damping / _DAMP, now.damping * _DAMP).clamp_(1, _GREATEST_DAMPING)


def _land(judge: _Judge, finished: _Descent) -> _Found:
    """Draw each nearest success towards the clean image until it only just is one, by the rule of false position."""
    # Pixels that have come to a bound would have gone on: they stay.
    way = _inside(finished.best) * (finished.best - finished.clean)
    base = finished.best - way
    found = finished.best_square.isfinite()
    point, share, lead = finished.best, torch.ones_like(finished.best_lead), finished.best_lead
    # Below the success: at first the end of the way, with the lead that it would have if the leads were linear.
    short, short_lead = torch.zeros_like(share), (lead - finished.best_pace).clamp(max=-_LEAST_SLOPE)
    for _ in range(_LANDINGS):
        tried = share - (1 - _KEPT) * (share - short) * lead / (lead - short_lead)
        trial = torch.addcmul(base, tried.unsqueeze(1), way).clamp_(0, 1)
        trial_lead = judge.lead(trial, finished.target)
        success = found & (trial_lead >= 0)
        point = torch.where(success.unsqueeze(1), trial, point)
        short, short_lead = torch.where(success, short, tried), torch.where(success, short_lead, trial_lead)
        share, lead = torch.where(success, tried, share), torch.where(success, trial_lead, lead)
    square = torch.where(found, (point - finished.clean).square().sum(dim=1), torch.inf)
    return _Found(point, square, finished.best_constant, finished.evaluations + _LANDINGS * found)
