"""Estimates over training runs and test images: a value with the influence of each run and image on it.

Runs and images are crossed: every run sees the same images, so both are sampled. `intervals` says how far an estimate
may be off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import ParamSpec, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc

from vaecore.suite.statistics.columns import NOWHERE, Origin, origin_of
from vaecore.suite.statistics.rank_statistics import placement_values, rank_correlation, sums_by

Array: TypeAlias = NDArray[np.float64]
Limits: TypeAlias = tuple[float, float]
Arguments = ParamSpec("Arguments")

UNLIMITED: Limits = (-np.inf, np.inf)
BEATEN = 0.025  # level of the test that an attack is better than another
_ROUNDING = 1e-8  # relative, of central differences
SMALLEST_CLASS = 10  # below ten images a rank correlation takes so few values that its influence values say little


@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimand's value with what its interval needs.

    value: influence.mean(). influence: (runs, images). per_run: (runs,), each run's own statistic, for display.
    limits: the range that the estimand can take. count: images in the smallest group that it compares, which bounds
    the evidence; all images where there are no groups. reason: why the value is NaN, else empty. outside: number of
    images that are of another set than the test images. origin: of the columns that it was made from.
    """

    value: float
    influence: Array = field(repr=False)
    per_run: Array
    limits: Limits
    count: int
    reason: str = ""
    outside: int = 0
    origin: Origin = NOWHERE


def _with_origin(estimator: Callable[Arguments, Estimate]) -> Callable[Arguments, Estimate]:
    """An estimator whose estimate has the origin of all columns and estimates that it is given."""

    @wraps(estimator)
    def estimate(*args: Arguments.args, **settings: Arguments.kwargs) -> Estimate:
        return replace(estimator(*args, **settings), origin=origin_of((args, settings)))

    return estimate


@_with_origin
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


@_with_origin
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
        influence, gross = np.full(table.shape[1:], value), np.zeros(table.shape[1:])
        for k in np.flatnonzero(steps):
            shift = np.where(np.arange(len(means)) == k, steps, 0.0)
            slope = (function(means + shift) - function(means - shift)) / (2 * steps[k])
            part = slope * (table[k] - means[k])
            influence, gross = influence + part, gross + np.abs(part)
        if np.abs(influence - value).max() < _ROUNDING * gross.max():  # as where a ratio is one of equals
            influence = np.full(table.shape[1:], value)
    if not (np.isfinite(value) and np.isfinite(influence).all()):
        return _undefined(table.shape[1:], f"the function is {value} or has no slope at the means {means.tolist()}")
    return Estimate(value, influence, per_run, limits, table.shape[2] if count is None else count)


@_with_origin
def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Estimate:
    """Mean of one table (runs, images) over the mean of another; NaN where the denominator's mean is 0."""
    return smooth([numerator, denominator], lambda means: means[0] / means[1])


@_with_origin
def group_mean_ratio(values: ArrayLike, upper: ArrayLike, lower: ArrayLike) -> Estimate:
    """Mean of `values` over the images of one group, over that of another group; groups may differ between runs.

    values: (runs, images); upper, lower: (runs, images) boolean. NaN with a reason if a group is empty in all runs.
    """
    columns, count = _group_columns(values, upper, lower)
    return smooth(columns, lambda means: (means[0] / means[1]) / (means[2] / means[3]), count=count)


@_with_origin
def group_mean_step(values: ArrayLike, upper: ArrayLike, lower: ArrayLike) -> Estimate:
    """Mean of `values` over one group minus that over another, relative to the mean over all images.

    values: (runs, images); upper, lower: (runs, images) boolean. NaN with a reason if a group is empty in all runs.
    """
    columns, count = _group_columns(values, upper, lower)
    return smooth(columns, lambda means: (means[0] / means[1] - means[2] / means[3]) / means[4], count=count)


@_with_origin
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


@_with_origin
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


@_with_origin
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


@_with_origin
def spearman(first: ArrayLike, second: ArrayLike) -> Estimate:
    """Spearman's rank correlation over the images of a run, ties at midranks; mean over runs.

    first, second: (runs, images). NaN with a reason where one is constant or NaN in a run.
    """
    shape = _table(first, "first").shape
    return _spearman(first, second, np.zeros(shape, dtype=np.int64), fewest=2)


@_with_origin
def spearman_within(first: ArrayLike, second: ArrayLike, groups: ArrayLike) -> Estimate:
    """Spearman's rank correlation within each group of a run, averaged by group size; mean over runs.

    first, second: (runs, images). groups: (runs, images) integers, for instance predicted classes, which may differ
    between runs. Groups of fewer than 10 images in a run are left out of that run. NaN with a reason where no group is
    left, or a value is NaN or constant within a group. Influence function: Croux & Dehon (2010), section 2, of the
    empirical distribution with its ties.
    """
    return _spearman(first, second, groups, fewest=SMALLEST_CLASS)


@_with_origin
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


@_with_origin
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


def beats(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> bool:
    """Whether an attack wins more images than another by more than chance: McNemar's exact test, one-sided, at 0.025.

    first, second: which of the same images each attack wins. Where the second wins none that the first does not, a
    difference of 10 points is seen with a probability of 0.77 on 75 images, 1.00 on 150; one of 5 points with 0.17 and
    0.77, on 750 with 1.00.
    """
    first_alone, second_alone = int((first & ~second).sum()), int((second & ~first).sum())
    if first_alone <= second_alone:
        return False
    # The chance of as many heads or more in so many throws of a fair coin; scipy.stats takes long to import.
    return bool(bdtrc(first_alone - 1, first_alone + second_alone, 0.5) < BEATEN)


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
