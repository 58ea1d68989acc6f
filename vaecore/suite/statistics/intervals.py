"""Estimates over training runs and test images, and intervals that cover both.

Runs and images are crossed: every run sees the same images, so both are sampled. An estimand is given as an `Estimate`:
its value and, per run and image, influence values phi (runs, images) whose mean is the value. A two-way analysis of
variance of phi gives Var = (MS_runs + MS_images - MS_residual) / (runs * images), Satterthwaite's (1946) degrees of
freedom the t interval (Cornfield & Tukey 1956, section 5, for the crossed mean squares). `claims/coverage.py` measures
how often these intervals cover.

Three rules keep an interval from promising more than the data allow:

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

What remains: where runs differ far more than images and the estimand is near an end of its range, the intervals cover
less than they say (0.885 to 0.90 at 0.95 for an AUROC near 1), nearly always by lying on the side of the end.

With one run the interval covers images only (`runs == 1` says so). NaN anywhere gives an interval of NaN, which clears
no bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, stdtrit

from vaecore.suite.statistics.rank_statistics import placement_values, rank_correlation, sums_by

Array: TypeAlias = NDArray[np.float64]
Limits: TypeAlias = tuple[float, float]

UNLIMITED: Limits = (-np.inf, np.inf)
SMALLEST_CLASS = 10  # below ten images a rank correlation takes so few values that its influence values say little
MOST_IMAGES, MOST_RUNS = 10**7, 10**4  # beyond these `Interval.required` calls a bound out of reach


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimand's value with what its interval needs.

    value: influence.mean(). influence: (runs, images). per_run: (runs,), each run's own statistic, for display.
    limits: the range that the estimand can take. count: images in the smallest group that it compares, which bounds
    the evidence; all images where there are no groups. reason: why the value is NaN, else empty. outside: how many of
    the images are of another set than the test images.
    """

    value: float
    influence: Array
    per_run: Array
    limits: Limits
    count: int
    reason: str = ""
    outside: int = 0


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
            centre, step = logit(lower_range / span), half_width * span / (lower_range * upper_range)
            below = lower_range - span * float(expit(centre - step))
            above = upper_range - span * float(expit(-centre - step))

        def margin(half: float, range_left: float) -> float:
            if np.isfinite(range_left):
                return max(half, differing * range_left)
            return half if half > 0 else float("inf")

        return margin(below, lower_range), margin(above, upper_range)

    def ends(self, level: float, freedom: float | None = None) -> tuple[float, float]:
        """The interval itself; NaN where the estimate is."""
        below, above = self.margins(level, freedom)
        return max(self.estimate - below, self.limits[0]), min(self.estimate + above, self.limits[1])


@dataclass(frozen=True)
class Interval:
    """A two-sided interval, and the variance components of one influence value, truncated at zero.

    With one run `run_variance` is NaN and `image_variance` holds all variance between images. parts: the single
    intervals where this one is of the smallest or largest of several.
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

    @property
    def spreads(self) -> tuple[Spread, ...]:
        """What it is made of: one, or one for each part; none where there is no interval."""
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

    def required(self, bound: float) -> "Required":
        """How many images (at these runs) or runs (at these images) bring the end on the bound's side clear of it.

        Extrapolates from the estimate and the variance components found; an interval that is clear already needs what
        it has. For the smallest or largest of several, every part must be clear.
        """
        if self.parts:
            each = [part.required(bound) for part in self.parts]
            return Required(_most([one.images for one in each]), _most([one.runs for one in each]))
        gap = abs(self.estimate - bound)

        def clear(images: int, runs: int) -> bool:
            below, above = self._spread(runs, images).margins(self.level)
            return (below if bound < self.estimate else above) < gap

        if not gap > 0 or self.images < 2 or self.count < 2:
            return Required(None, None)
        images = _first(lambda images: clear(images, self.runs), self.images, MOST_IMAGES)
        runs = _first(lambda runs: clear(self.images, runs), self.runs, MOST_RUNS) if self.runs > 1 else None
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
        found = Interval(
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
        )
        return replace(found, outside=estimate.outside)
    nan = float("nan")
    found = Interval(
        estimate.value, nan, nan, level, runs, images, nan, nan, nan, estimate.limits, estimate.count, reason
    )
    return replace(found, outside=estimate.outside)


def smallest(estimates: Sequence[Estimate], level: float) -> Interval:
    """Interval of the smallest of several estimands.

    The lower end is the smallest lower end: the smallest exceeds a bound only where each does, so no correction is
    needed (intersection-union test, Berger 1982). The upper end is the smallest upper end at Bonferroni's level, since
    it falls short as soon as one of them does. NaN in any makes all NaN. Variance components are those of the part
    with the lowest end.
    """
    if not estimates:
        raise ValueError("the smallest of several needs at least one estimate; got none")
    parts = tuple(interval(estimate, level) for estimate in estimates)
    undefined = [part for part in parts if np.isnan(part.low)]
    lowest = undefined[0] if undefined else min(parts, key=lambda part: part.low)
    nan = float("nan")
    spreads = [spread for part in parts for spread in part.spreads]
    ends = (nan, nan, nan) if undefined else of_smallest(spreads, level)
    return Interval(
        *ends,
        level,
        lowest.runs,
        lowest.images,
        lowest.run_variance,
        lowest.image_variance,
        lowest.residual_variance,
        lowest.limits,
        lowest.count,
        lowest.reason,
        parts,
        lowest.outside,
    )


def of_smallest(spreads: Sequence[Spread], level: float, freedom: float | None = None) -> tuple[float, float, float]:
    """Estimate and ends of the smallest of several estimands, or of the only one, as `smallest` takes them."""
    ends = [spread.ends(level, freedom) for spread in spreads]
    corrected = [spread.ends(1 - (1 - level) / len(spreads), freedom) for spread in spreads]
    return min(spread.estimate for spread in spreads), min(low for low, _ in ends), min(high for _, high in corrected)


def change(before: Sequence[Spread], after: Sequence[Spread], level: float) -> tuple[float, float, float]:
    """What an estimand of one study is more than in another, independent one: estimate and ends.

    before, after: `Interval.spreads`. The ends follow from those of the two intervals (MOVER, Zou & Donner 2008), each
    with its own shape, at Welch's (1947) degrees of freedom for the two together. Where the studies share test images
    their estimates rise and fall together, and the interval is wider than need be.
    """
    pairs = [(one.standard_error**2, one.freedom) for one in (_widest(before), _widest(after))]
    spread = sum(variance**2 / freedom for variance, freedom in pairs)
    freedom = sum(variance for variance, _ in pairs) ** 2 / spread if spread > 0 else 1.0
    first, first_low, first_high = of_smallest(before, level, freedom)
    second, second_low, second_high = of_smallest(after, level, freedom)
    moved = second - first
    return (
        moved,
        moved - float(np.hypot(second - second_low, first_high - first)),
        moved + float(np.hypot(second_high - second, first - first_low)),
    )


def _widest(spreads: Sequence[Spread]) -> Spread:
    return max(spreads, key=lambda spread: spread.standard_error)


def mean(values: ArrayLike, *, limits: Limits | None = None) -> Estimate:
    """Mean over runs and images.

    values: (runs, images), any real or boolean. limits: the range of a value; by default (0, 1) where all are 0 or 1,
    else unlimited. Not finite values give NaN with a reason.
    """
    table = _table(values, "values")
    if limits is None:
        limits = (0.0, 1.0) if bool(np.isin(table, (0, 1)).all()) else UNLIMITED
    if not np.isfinite(table).all():
        return _undefined(table.shape, f"{int((~np.isfinite(table)).sum())} of {table.size} values are not finite")
    return Estimate(float(table.mean()), table, table.mean(1), limits, table.shape[1])


def smooth(
    columns: Sequence[ArrayLike],
    function: Callable[[Array], float],
    *,
    limits: Limits = UNLIMITED,
    count: int | None = None,
) -> Estimate:
    """A smooth function of means over runs and images, by the delta method.

    columns: k tables (runs, images) of the same images. function: takes the k means, returns a number; differentiated
    by central differences. The means are over all runs together, so a group that is small in one run does no harm; the
    mean of the influence values is the function of these means, not the mean of `per_run`.
    """
    table = np.stack([_table(column, f"columns[{k}]") for k, column in enumerate(columns)])  # (k, runs, images)
    if not np.isfinite(table).all():
        return _undefined(table.shape[1:], f"{int((~np.isfinite(table)).sum())} of {table.size} values are not finite")
    means = table.mean((1, 2))
    # The cube root of the machine precision balances truncation and rounding of a central difference.
    steps = np.cbrt(np.finfo(np.float64).eps) * np.maximum(np.abs(means), table.std((1, 2)))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(function(means))
        per_run = np.array([function(run_means) for run_means in table.mean(2).T], dtype=np.float64)
        influence = np.full(table.shape[1:], value)
        for k in np.flatnonzero(steps):
            shift = np.where(np.arange(len(means)) == k, steps, 0.0)
            slope = (function(means + shift) - function(means - shift)) / (2 * steps[k])
            influence += slope * (table[k] - means[k])
    if not (np.isfinite(value) and np.isfinite(influence).all()):
        return _undefined(table.shape[1:], f"the function is {value} or has no slope at the means {means.tolist()}")
    return Estimate(value, influence, per_run, limits, table.shape[2] if count is None else count)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Estimate:
    """Mean of one table (runs, images) over the mean of another; NaN where the denominator's mean is 0."""
    return smooth([numerator, denominator], lambda means: means[0] / means[1])


def group_mean_ratio(values: ArrayLike, upper: ArrayLike, lower: ArrayLike) -> Estimate:
    """Mean of `values` over the images of one group, over that of another group; groups may differ between runs.

    values: (runs, images); upper, lower: (runs, images) boolean. NaN with a reason if a group is empty in all runs.
    """
    columns, count = _group_columns(values, upper, lower)
    return smooth(columns, lambda means: (means[0] / means[1]) / (means[2] / means[3]), count=count)


def group_mean_step(values: ArrayLike, upper: ArrayLike, lower: ArrayLike) -> Estimate:
    """Mean of `values` over one group minus that over another, relative to the mean over all images.

    values: (runs, images); upper, lower: (runs, images) boolean. NaN with a reason if a group is empty in all runs.
    """
    columns, count = _group_columns(values, upper, lower)
    return smooth(columns, lambda means: (means[0] / means[1] - means[2] / means[3]) / means[4], count=count)


def auroc(inside: ArrayLike, outside: ArrayLike, *, paired: bool) -> Estimate:
    """Probability that an outside image scores higher than an inside one, ties half; mean over runs.

    inside: (runs, n); outside: (runs, m). paired: column i of both is the same image under two conditions (n == m, n
    influence values); else the images are different ones (n + m influence values, inside first). Infinite scores are
    ordered like any other; NaN gives NaN with a reason. Influence values are DeLong et al.'s (1988) placement values.
    """
    low, high = _table(inside, "inside"), _table(outside, "outside")
    if len(low) != len(high) or (paired and low.shape != high.shape):
        wanted = "the same shape, as they are paired" if paired else "the same number of runs"
        raise ValueError(f"inside and outside must have {wanted}; got {low.shape} and {high.shape}")
    both = np.concatenate([low, high], 1)
    is_outside = np.broadcast_to(np.arange(both.shape[1]) >= low.shape[1], both.shape)
    grouped = auroc_of_groups(both, is_outside)
    if not paired or np.isnan(grouped.value):
        return replace(grouped, outside=high.shape[1]) if not paired else _undefined(low.shape, grouped.reason)
    images = low.shape[1]
    placement = placement_values(both, is_outside)
    influence = placement[:, :images] + placement[:, images:] - grouped.per_run[:, None]
    return Estimate(grouped.value, influence, grouped.per_run, grouped.limits, images)


def auroc_of_groups(score: ArrayLike, positive: ArrayLike) -> Estimate:
    """Probability that a positive image scores higher than another of the same run, ties half; mean over runs.

    score: (runs, images). positive: (runs, images) boolean, which may differ between runs, as being misclassified
    does. A run with fewer than two images in a group gives NaN with a reason. Influence: DeLong et al. (1988).
    """
    table, member = _table(score, "score"), _mask(positive, "positive")
    _check_same_shape(score=table, positive=member)
    sizes = np.stack([(~member).sum(1), member.sum(1)])  # (group, runs)
    if np.isnan(table).any():
        return _undefined(table.shape, f"{int(np.isnan(table).sum())} of {table.size} scores are NaN")
    if sizes.min() < 2:
        run = int(sizes.min(0).argmin())
        return _undefined(
            table.shape, f"run {run} has {sizes[0, run]} negatives and {sizes[1, run]} positives; both must be >= 2"
        )
    placement = placement_values(table, member)
    per_run = (placement * member).sum(1) / sizes[1]
    images = table.shape[1]
    # An image of a group of size s stands for images / s of them. The root turns the divisor of the variance from
    # images - 1 to DeLong's s - 1, which matters where few images are misclassified.
    weight = images / sizes * np.sqrt(sizes / (sizes - 1) * (images - 1) / images)
    deviation = (placement - per_run[:, None]) * np.where(member, weight[1][:, None], weight[0][:, None])
    return Estimate(float(per_run.mean()), per_run[:, None] + deviation, per_run, (0.0, 1.0), int(sizes.min()))


def aurc(doubt: ArrayLike, wrong: ArrayLike) -> Estimate:
    """Area under the risk-coverage curve (see `vaecore.aurc`), mean over runs; lower is better.

    doubt: (runs, images), higher is refused sooner. wrong: (runs, images) boolean. NaN with a reason for NaN doubts.
    Influence: an image adds the risk where it is answered itself, and moves that of every image answered after it.
    """
    table, miss = _table(doubt, "doubt"), _mask(wrong, "wrong")
    _check_same_shape(doubt=table, wrong=miss)
    if np.isnan(table).any():
        return _undefined(table.shape, f"{int(np.isnan(table).sum())} of {table.size} doubts are NaN")
    images = table.shape[1]
    answered, influence = np.arange(1, images + 1), np.empty_like(table)
    for run, (score, missed) in enumerate(zip(table, miss, strict=True)):
        order = np.argsort(score, kind="stable")
        block = np.unique(score[order], return_inverse=True)[1]  # of images equally doubtful, whose order is random
        size = np.bincount(block)
        risk = np.cumsum((np.bincount(block, missed[order]) / size)[block]) / answered
        after, moved = (np.cumsum(values[::-1])[::-1] for values in (1 / answered, risk / answered))
        own = (np.bincount(block, risk - moved) / size)[block]
        influence[run, order] = own + missed[order] * (np.bincount(block, after) / size)[block]
    return Estimate(float(influence.mean()), influence, influence.mean(1), (0.0, 1.0), images)


def spearman(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Spearman's rank correlation over the images of a run, ties at midranks; mean over runs.

    first, second: (runs, images). NaN with a reason where one is constant or NaN in a run.
    """
    shape = _table(first, "first").shape
    return _spearman(first, second, np.zeros(shape, dtype=np.int64), fewest=2)


def spearman_within(first: ArrayLike, second: ArrayLike, groups: ArrayLike) -> Estimate:
    """Spearman's rank correlation within each group of a run, averaged by group size; mean over runs.

    first, second: (runs, images). groups: (runs, images) integers, for instance predicted classes, which may differ
    between runs. Groups of fewer than 10 images in a run are left out of that run. NaN with a reason where no group is
    left, or a value is NaN or constant within a group. Influence function: Croux & Dehon (2010), section 2, here of
    the empirical distribution with its ties.
    """
    return _spearman(first, second, groups, fewest=SMALLEST_CLASS)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """One estimate minus another from the same runs and images: influence values subtract, so what they share cancels.

    Raises ValueError where runs or images differ.
    """
    if first.influence.shape != second.influence.shape:
        raise ValueError(
            "a paired difference needs the same runs and images;"
            f" got {first.influence.shape} and {second.influence.shape} (was one condition computed on fewer images?)"
        )
    limits = (first.limits[0] - second.limits[1], first.limits[1] - second.limits[0])
    return Estimate(
        first.value - second.value,
        first.influence - second.influence,
        first.per_run - second.per_run,
        limits,
        min(first.count, second.count),
        first.reason or second.reason,
        max(first.outside, second.outside),
    )


def absolute(estimate: Estimate) -> Estimate:
    """Absolute value of an estimand; clipped at 0, its interval folds the signed estimand's symmetric t interval."""
    sign = -1.0 if estimate.value < 0 else 1.0
    return Estimate(
        abs(estimate.value),
        sign * estimate.influence,
        sign * estimate.per_run,
        (0.0, np.inf),  # no upper end: on the logit scale the interval could never reach 0
        estimate.count,
        estimate.reason,
        estimate.outside,
    )


def beats(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether an attack wins more images than another by more than chance: McNemar's test at two standard errors."""
    more, less = int((one & ~other).sum()), int((other & ~one).sum())
    return bool(more - less > 2 * (more + less) ** 0.5)


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


def _spearman(first: ArrayLike, second: ArrayLike, groups: ArrayLike, *, fewest: int) -> Estimate:
    x, y, group = _table(first, "first"), _table(second, "second"), np.asarray(groups)
    _check_same_shape(first=x, second=y, groups=group)
    runs, images = x.shape
    if np.isnan(x).any() or np.isnan(y).any():
        return _undefined(x.shape, f"{int((np.isnan(x) | np.isnan(y)).sum())} of {x.size} pairs hold NaN")
    label, code = np.unique(group, return_inverse=True)
    run_of = np.repeat(np.arange(runs), images)
    key, block = np.unique(run_of * len(label) + code.reshape(-1), return_inverse=True)  # one block a run and group
    size = sums_by(np.ones(x.size), block, len(key))
    kept = size >= fewest
    kept_images = sums_by(size * kept, key // len(label), runs)
    if not kept_images.all():
        run = int(kept_images.argmin())
        return _undefined(x.shape, f"no group of run {run} has {fewest} images or more")
    correlation, influence = rank_correlation(x.reshape(-1), y.reshape(-1), block)
    if np.isnan(correlation[kept]).any():
        run, position = divmod(int(key[kept & np.isnan(correlation)][0]), len(label))
        return _undefined(x.shape, f"values are constant in group {label[position]} of run {run}")
    weight = np.where(kept, size / kept_images[key // len(label)], 0.0)
    per_run = sums_by(weight * np.where(kept, correlation, 0.0), key // len(label), runs)
    # An image counts for its group's correlation and for the group's share; those left out only for neither.
    deviation = images / kept_images[run_of] * (influence + correlation[block] - per_run[run_of])
    table = (per_run[run_of] + np.where(kept[block], deviation, 0.0)).reshape(runs, images)
    return Estimate(float(table.mean()), table, per_run, (-1.0, 1.0), images)


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


def _most(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def _undefined(shape: tuple[int, ...], reason: str) -> Estimate:
    nan = float("nan")
    return Estimate(nan, np.full(shape, nan), np.full(shape[0], nan), UNLIMITED, shape[1], reason)


def _table(values: ArrayLike, name: str) -> Array:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(
            f"{name} must be a non-empty table (runs, images); got shape {table.shape}"
            " (a single run is values[None]; no images are left where a condition selected none)"
        )
    return table


def _mask(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    mask = np.asarray(values)
    if mask.dtype != np.bool_:
        raise ValueError(f"{name} must be boolean; got {mask.dtype} (compare first: confidence < 0.9)")
    return mask


def _group_columns(values: ArrayLike, upper: ArrayLike, lower: ArrayLike) -> tuple[list[Array], int]:
    """Columns of which group means are functions (sum and share of each group, all values), and the smaller group.

    The group's size is that of an average run. Values that are not finite stay so in the columns, in a group or not.
    """
    table, first, second = _table(values, "values"), _mask(upper, "upper"), _mask(lower, "lower")
    _check_same_shape(values=table, upper=first, lower=second)
    with np.errstate(invalid="ignore"):  # infinity times "not in the group" is NaN, as it should be
        sums = table * first, table * second
    columns = [sums[0], first.astype(np.float64), sums[1], second.astype(np.float64), table]
    return columns, int(min(first.sum(1).mean(), second.sum(1).mean()))


def _check_same_shape(**tables: NDArray[np.generic]) -> None:
    shapes = {name: table.shape for name, table in tables.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"tables must have one shape (runs, images); got {shapes} (cut to different images?)")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1); got {level} (a percentage? use 0.95)")
