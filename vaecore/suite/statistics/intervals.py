"""Intervals of estimates, which cover training runs and test images.

Runs and images are crossed: every run sees the same images, so both are sampled. An estimand is given as an `Estimate`:
its value and, per run and image, influence values phi (runs, images) whose mean is the value. A two-way analysis of
variance of phi gives Var = (MS_runs + MS_images - MS_residual) / (runs * images), Satterthwaite's (1946) degrees of
freedom the t interval (Cornfield & Tukey 1956, section 5, for the crossed mean squares). `statistics/coverage.py`
measures how often these intervals cover.

Three rules keep an interval from promising more than the data allow, and one from promising nothing:

- Variance components are truncated at zero, so the variance is never below max(MS_runs, MS_images) / (runs * images).
  Without it an unlucky small MS_runs, common with three runs, shortens the interval.
- Where the range of the estimand is known on both sides, the t interval is taken on the logit scale of the range and
  mapped back (for a correlation this is Fisher's z). Near an end the runs' own values are skewed, and the symmetric
  interval clears bounds too often: with a dominant run effect an AUROC near 1 was covered 0.78 times at level 0.95.
- Where an end of the range is known, the interval's end is never closer than if all images had agreed: after n
  agreeing images at most a share u = 1 - ((1 - level) / 2) ** (1 / n) of the population differs (Clopper & Pearson
  1934, zero events), which moves the estimate by at most u times its distance to the end of the range. A proportion of
  0 or 1 has the exact Clopper-Pearson interval on n images; runs do not count as further evidence. Here n is all images
  or, where all influence values are equal (an AUROC of 1), the images of the smallest group compared. Where the range
  is unknown and all influence values are equal, the interval is infinite.
- Of two estimates with one standard error the higher has no lower end below that of the other. The logit scale alone
  breaks this where the plain margin t * s reaches past the end of the range: its steps grow without limit, and shares
  of 1, 1, 1, 1, 0.96 of 150 images had a lower end of 0.14 at level 0.9972. So the lower end is the highest that any
  estimate up to this one would have with this standard error, and the upper end likewise. Past
  that point it lies about e * t * s from the end of the range: 0.86 in the example.

Compared by simulation at levels 0.95 and 0.9972 (400 replications, 3 to 10 runs): with 5 runs that differ far more than
images, an AUROC near 1 was covered 0.895 and 0.987 times (half-widths 0.016 and 0.037); on the logit scale alone 0.898
and 0.993 (0.018 and 0.099); on the arcsine scale 0.845 and 0.980; by Clopper and Pearson's on an effective sample size
(Korn & Graubard 1998) 0.893 and 0.985 (0.016 and 0.044), but its lower end in the example is 0.76.

What remains: where runs differ far more than images and the estimand is near an end of its range, the intervals cover
less than they say, nearly always by lying on the side of the end. Runs of which few are bad cannot be seen in few runs
at all. And a set of runs that is better run by run may still have the lower end, where its runs differ more: runs that
differ leave their mean less known. Of 19,152 such pairs of five runs with 0 to 6 mistakes in 150 images it did in 0.2
of them at level 0.9972, by 0.06 at most (on the logit scale alone in 0.6, by 0.75), and by 0.02 at level 0.95; with 8
runs by 0.02 and with 10 by 0.01 at level 0.9972.

With one run the interval covers images only (`runs == 1` says so). NaN anywhere gives an interval of NaN, which clears
no bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from scipy.special import expit, gammaincinv, logit, ndtr, ndtri, stdtrit

from vaecore.suite.statistics.estimates import Array, Estimate, Limits

MOST_IMAGES, MOST_RUNS = 10**7, 10**4  # beyond these `Interval.required` calls a bound out of reach
DECIDED = 0.8  # chance of a verdict at the numbers that `Interval.required` gives, were the estimate the truth
_NODES = (np.arange(64) + 0.5) / 64  # of averages over what a variance may be

Pick: TypeAlias = Literal["smallest", "greatest"]  # of several estimands


@dataclass(frozen=True)
class Spread:
    """What an interval at any level is made of, in plain values.

    standard_error: of the estimate, on its own scale. freedom: Satterthwaite's degrees of freedom of that. images:
    looked at. count, limits: as in `Estimate`.
    """

    estimate: float
    standard_error: float
    freedom: float
    images: int
    count: int
    limits: Limits

    def margins(self, level: float, freedom: float | None = None) -> tuple[float, float]:
        """Distance from the estimate to the lower and the upper end, before the range of the estimand clips them.

        freedom: other degrees of freedom, where the interval is a part of a difference.
        """
        freedom = self.freedom if freedom is None else freedom
        half_width = float(stdtrit(freedom, (1 + level) / 2)) * self.standard_error
        agreeing = self.images if half_width > 0 else self.count
        differing: float = 1 - ((1 - level) / 2) ** (1 / agreeing)

        lower_range, upper_range = self.estimate - self.limits[0], self.limits[1] - self.estimate
        below = above = half_width
        if half_width > 0 and 0 < lower_range < np.inf and 0 < upper_range < np.inf:
            span = self.limits[1] - self.limits[0]
            below = lower_range - span * _end_near_1(lower_range / span, half_width / span)
            above = upper_range - span * _end_near_1(upper_range / span, half_width / span)

        def margin(half: float, range_left: float) -> float:
            if np.isfinite(range_left):
                return max(half, differing * range_left)
            return half if half > 0 else float("inf")

        return margin(below, lower_range), margin(above, upper_range)

    def ends(self, level: float, freedom: float | None = None) -> tuple[float, float]:
        """The interval itself; NaN where the estimate is."""
        below, above = self.margins(level, freedom)
        return max(self.estimate - below, self.limits[0]), min(self.estimate + above, self.limits[1])

    def chance_within(self, low: float, high: float, level: float, *, again: bool) -> float:
        """Chance that the whole interval of another study of the same design lies between two values.

        Other runs and images, as many of each; a side may be infinite. again: given this study alone, whose estimate is
        off as well, so that the two differ by sqrt(2) standard errors; else were this estimate the truth. Both
        estimates are taken as normal on the scale of the interval, their variances as chi-squared, with its degrees of
        freedom. NaN where the ends are infinite.
        """
        margins = self.margins(level)
        if not np.isfinite(margins).all():
            return float("nan")
        # Where all influence values agree, the margin is no t interval's: as if its variance were known.
        known = not self.standard_error > 0
        quantile = ndtri((1 + level) / 2) if known else stdtrit(self.freedom, (1 + level) / 2)
        ratio = np.ones(1) if known else gammaincinv(self.freedom / 2, _NODES) * 2 / self.freedom  # estimated to true
        true = np.sqrt(ratio)[:, None] if again else np.ones((1, 1))

        def clear(gap: float, towards: float, away: float) -> Array:
            """How far the other estimate may move towards a side so that its interval clears it."""
            margin = towards if gap > 0 else away
            if np.isinf(gap) or margin == 0:  # no bound, or an estimate at the end of its range
                return np.full_like(ratio, np.inf if gap > 0 else -np.inf)
            distance = quantile * gap / margin
            steps: Array = (distance * true - quantile * np.sqrt(ratio)) / (2**0.5 if again else 1.0)
            return steps

        down, up = clear(self.estimate - low, *margins), clear(high - self.estimate, *reversed(margins))
        return float(np.maximum(0, ndtr(up) - ndtr(-down)).mean())


@dataclass(frozen=True)
class Interval:
    """A two-sided interval, and the variance components of one influence value, truncated at zero.

    With one run `run_variance` is NaN and `image_variance` holds all variance between images. parts: the single
    intervals where this one is of the smallest or greatest of several, by `pick`.
    """

    estimate: float
    low: float
    high: float
    level: float
    runs: int
    images: int
    run_variance: float
    image_variance: float
    residual_variance: float
    limits: Limits
    count: int
    reason: str = ""
    parts: tuple["Interval", ...] = ()
    outside: int = 0
    pick: Pick = "smallest"

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """What it is made of: one spread, or one for each part; none where there is no interval."""
        if np.isnan(self.low):
            return ()
        if self.parts:
            return tuple(spread for part in self.parts for spread in part.spreads)
        return (self._spread(self.runs, self.images),)

    def _spread(self, runs: int, images: int) -> Spread:
        """At these numbers of runs and images, were the variances and the estimate the same."""
        count = self.count if images == self.images else max(2, self.count * images // self.images)
        variances = self.run_variance, self.image_variance, self.residual_variance
        error, freedom = _standard_error(*variances, runs=runs, images=images, count=count)
        return Spread(self.estimate, error, freedom, images, count, self.limits)

    def chance_within(self, low: float, high: float, *, again: bool) -> float:
        """As `Spread.chance_within`; of several estimands, the least that it can be, however they depend on each other.

        NaN where there is no interval.
        """
        spreads, level = self.spreads, self.level
        if len(spreads) < 2:
            return spreads[0].chance_within(low, high, level, again=again) if spreads else float("nan")
        corrected = 1 - (1 - level) / len(spreads)
        above, below = (level, corrected) if self.pick == "smallest" else (corrected, level)
        aboves = [spread.chance_within(low, np.inf, above, again=again) for spread in spreads]
        belows = [spread.chance_within(-np.inf, high, below, again=again) for spread in spreads]
        every, some = (aboves, belows) if self.pick == "smallest" else (belows, aboves)
        return float(np.maximum(0, np.max(some) - np.sum(np.subtract(1, every))))

    def required(self, bound: float) -> "Required":
        """How many images (at these runs) or runs (at these images) would decide on the estimate's side of a bound.

        With a chance of DECIDED, were the estimate the truth and the variance components those of this study; an
        interval that is clear already needs what it has. Of several, all that have to clear the bound would, or the
        first that suffices.
        """
        if self.parts:
            every = (self.pick == "smallest") == (bound < self.estimate)
            level = self.level if every else 1 - (1 - self.level) / len(self.parts)
            side = self.estimate < bound
            parts = [replace(part, level=level) for part in self.parts if every or (part.estimate < bound) == side]
            needs = [part.required(bound) for part in parts]
            return Required(*(_joint([getattr(one, of) for one in needs], every=every) for of in ("images", "runs")))
        if not abs(self.estimate - bound) > 0 or self.images < 2 or self.count < 2:
            return Required(None, None)
        low, high = self._spread(self.runs, self.images).ends(self.level)
        if low > bound or high < bound:
            return Required(self.images, self.runs if self.runs > 1 else None)

        def decided(images: int, runs: int) -> bool:
            low, high = (bound, np.inf) if bound < self.estimate else (-np.inf, bound)
            return self._spread(runs, images).chance_within(low, high, self.level, again=False) >= DECIDED

        images = _first(lambda images: decided(images, self.runs), self.images, MOST_IMAGES)
        runs = _first(lambda runs: decided(self.images, runs), self.runs, MOST_RUNS) if self.runs > 1 else None
        return Required(images, runs)


@dataclass(frozen=True)
class Required:
    """Images at the present runs, or runs at the present images, that would decide; None: not reachable that way."""

    images: int | None
    runs: int | None


def family_level(claims: int) -> float:
    """Level of each interval so that a family of this many claims errs at most at 0.05 together (Bonferroni)."""
    if claims < 1:
        raise ValueError(f"a family must have at least 1 claim; got {claims} (none registered for this dataset?)")
    return 1 - 0.05 / claims


def interval(estimate: Estimate, level: float) -> Interval:
    """Two-sided t interval over runs and images at a level in (0, 1); method and edge rules at the top of this file."""
    _check_level(level)
    runs, images = estimate.influence.shape
    if not (np.isfinite(estimate.influence).all() and np.isfinite(estimate.value)):
        reason = estimate.reason or "some influence values are not finite"
    elif min(images, estimate.count) < 2:
        reason = f"an interval needs at least 2 images in each group; got {min(images, estimate.count)}"
    else:
        run, image, residual = _variance_components(estimate.influence)
        error, freedom = _standard_error(run, image, residual, runs=runs, images=images, count=estimate.count)
        spread = Spread(estimate.value, error, freedom, images, estimate.count, estimate.limits)
        return Interval(
            estimate.value,
            *spread.ends(level),
            level,
            runs,
            images,
            run,
            image,
            residual,
            estimate.limits,
            estimate.count,
            outside=estimate.outside,
        )
    nan = float("nan")
    return Interval(
        estimate.value,
        nan,
        nan,
        level,
        runs,
        images,
        nan,
        nan,
        nan,
        estimate.limits,
        estimate.count,
        reason,
        outside=estimate.outside,
    )


def smallest(estimates: Sequence[Estimate], level: float) -> Interval:
    """Interval of the smallest of several estimands.

    The lower end is the smallest lower end: the smallest exceeds a bound only where each does, so no correction is
    needed (intersection-union test, Berger 1982). The upper end is the smallest upper end at Bonferroni's level, since
    it falls short as soon as one of them does. NaN in any makes all NaN. Variance components are those of the part
    with the lowest end.
    """
    return _several(estimates, level, "smallest")


def greatest(estimates: Sequence[Estimate], level: float) -> Interval:
    """Interval of the greatest of several estimands, as of one that is picked after looking.

    The ends of `smallest` with their sides exchanged: the upper end is the greatest upper end, the lower end the
    greatest lower end at Bonferroni's level.
    """
    return _several(estimates, level, "greatest")


def _several(estimates: Sequence[Estimate], level: float, pick: Pick) -> Interval:
    if not estimates:
        raise ValueError(f"the {pick} of several needs at least one estimate; got none")
    parts = tuple(interval(estimate, level) for estimate in estimates)
    undefined = [part for part in parts if np.isnan(part.low)]
    extreme = min(parts, key=lambda part: part.low) if pick == "smallest" else max(parts, key=lambda part: part.high)
    extreme = undefined[0] if undefined else extreme
    nan = float("nan")
    spreads = [spread for part in parts for spread in part.spreads]
    estimate, low, high = (nan, nan, nan) if undefined else of_several(spreads, level, pick=pick)
    return replace(extreme, estimate=estimate, low=low, high=high, parts=parts, pick=pick)


def of_several(
    spreads: Sequence[Spread], level: float, freedom: float | None = None, *, pick: Pick = "smallest"
) -> tuple[float, float, float]:
    """Estimate and ends of the smallest or greatest of several estimands, or of the only one."""
    ends = [spread.ends(level, freedom) for spread in spreads]
    corrected = [spread.ends(1 - (1 - level) / len(spreads), freedom) for spread in spreads]
    values = [spread.estimate for spread in spreads]
    if pick == "smallest":
        return min(values), min(low for low, _ in ends), min(high for _, high in corrected)
    return max(values), max(low for low, _ in corrected), max(high for _, high in ends)


def change(
    before: Sequence[Spread], after: Sequence[Spread], level: float, *, pick: Pick = "smallest"
) -> tuple[float, float, float]:
    """Change of an estimand from one study to another, independent one: estimate and ends.

    before, after: `Interval.spreads`; pick: of several. The ends follow from those of the two intervals (MOVER, Zou &
    Donner 2008), each with its own shape, at Welch's (1947) degrees of freedom for the two together. Where the studies
    share test images their estimates rise and fall together, and the interval is wider than need be.
    """
    widest = [max(spreads, key=lambda spread: spread.standard_error) for spreads in (before, after)]
    variances = [(spread.standard_error**2, spread.freedom) for spread in widest]
    divisor = sum(variance**2 / freedom for variance, freedom in variances)
    freedom = sum(variance for variance, _ in variances) ** 2 / divisor if divisor > 0 else 1.0
    first, first_low, first_high = of_several(before, level, freedom, pick=pick)
    second, second_low, second_high = of_several(after, level, freedom, pick=pick)
    moved = second - first
    return (
        moved,
        moved - float(np.hypot(second - second_low, first_high - first)),
        moved + float(np.hypot(second_high - second, first - first_low)),
    )


def _variance_components(influence: Array) -> tuple[float, float, float]:
    """Run, image and residual variance of influence values (runs, images), from crossed mean squares, at least 0."""
    runs, images = influence.shape
    total = influence.mean()
    if np.ptp(influence) <= 1e-12 * abs(total):  # equal but for rounding
        return (0.0 if runs > 1 else float("nan")), 0.0, 0.0
    run_effect = influence.mean(1) - total
    image_effect = influence.mean(0) - total
    if runs == 1:
        return float("nan"), float((image_effect**2).sum() / (images - 1)), 0.0
    residual_effect = influence - total - run_effect[:, None] - image_effect
    residual = float((residual_effect**2).sum() / ((runs - 1) * (images - 1)))
    run_square = float((run_effect**2).sum() * images / (runs - 1))
    image_square = float((image_effect**2).sum() * runs / (images - 1))
    return max(0.0, (run_square - residual) / images), max(0.0, (image_square - residual) / runs), residual


def _standard_error(
    run_variance: float, image_variance: float, residual_variance: float, *, runs: int, images: int, count: int
) -> tuple[float, float]:
    """Standard error of a crossed mean from its variance components, and Satterthwaite's degrees of freedom."""
    image_square = residual_variance + runs * image_variance
    # `count` instead of `images`: the variance of a small group is known only as well as its own images tell.
    if runs == 1:
        total, freedom = image_square, float(count - 1)
    else:
        run_square = residual_variance + images * run_variance
        total = run_square + image_square - residual_variance
        spread = (
            run_square**2 / (runs - 1)
            + image_square**2 / (count - 1)
            + residual_variance**2 / ((runs - 1) * (count - 1))
        )
        freedom = total**2 / spread if spread > 0 else 1.0
    return float(np.sqrt(total / (runs * images))), freedom


def _first(clear: Callable[[int], bool], start: int, most: int) -> int | None:
    """The first number from `start` to `most` that is clear, by doubling and bisection."""
    if clear(start):
        return start
    below, above = start, 2 * start
    while not clear(above):
        below, above = above, 2 * above
        if above > most:
            return None
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if clear(middle) else (middle, above)
    return above


def _joint(numbers: Sequence[int | None], *, every: bool) -> int | None:
    """The largest, None where one is out of reach; or the smallest, None where all are."""
    reached = [number for number in numbers if number is not None]
    if every:
        return max(reached) if len(reached) == len(numbers) else None
    return min(reached, default=None)


def _end_near_1(estimate: float, half_width: float) -> float:
    """The lower end of the logit interval of an estimate in (0, 1), or the highest that one below it would have.

    The end falls as the estimate grows where p (1 - p) < half_width * (2 p - 1): the derivative of
    logit(p) - half_width / (p (1 - p)).
    """
    turn = (1 - 2 * half_width + float(np.hypot(1, 2 * half_width))) / 2
    start = min(estimate, turn)
    return float(expit(logit(start) - half_width / (start * (1 - start))))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); got {level} (a percentage? use 0.95)")
