"""Rank statistics within groups, by sorting in n log n steps: placement values for AUROC, Spearman's correlation."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]


def rank_correlation(x: Array, y: Array, block: NDArray[np.int64]) -> tuple[Array, Array]:
    """Spearman's correlation of each block (blocks,), and each value's influence on that of its block (values,).

    x, y, block: (values,). Correlation is NaN in blocks where x or y is constant. With U, V the midrank distribution
    functions, the correlation is Pearson's of (U, V). An image counts with its own (U, V) and by moving the
    ranks of all images above it; the second part is a sum over these, from sorted cumulative sums.
    """
    blocks = int(block.max()) + 1
    size = sums_by(np.ones_like(x), block, blocks)
    above_x, above_y = _sum_above(x, block), _sum_above(y, block)
    ones = np.ones_like(x)
    u = 1 - above_x(ones) / size[block]
    v = 1 - above_y(ones) / size[block]

    def moment(a: Array, b: Array, moved_a: Array, moved_b: Array) -> tuple[Array, Array]:
        """Block means of a * b, less 1/4 (midranks have mean 1/2), and the influence values on them."""
        average = sums_by(a * b, block, blocks) / size
        return average - 0.25, a * b + (moved_a + moved_b) / size[block] - 3 * average[block]

    x_by_x, y_by_y = above_x(u), above_y(v)
    covariance, on_covariance = moment(u, v, above_x(v), above_y(u))
    variance_x, on_x = moment(u, u, x_by_x, x_by_x)
    variance_y, on_y = moment(v, v, y_by_y, y_by_y)
    # A constant block has variance 0 up to rounding; the smallest other, one value apart, has about 1 / (4 size).
    constant = np.minimum(variance_x, variance_y) * size < 1e-6
    variance_x, variance_y = np.where(constant, np.nan, variance_x), np.where(constant, np.nan, variance_y)
    correlation = covariance / np.sqrt(variance_x * variance_y)
    influence = on_covariance / np.sqrt(variance_x * variance_y)[block] - correlation[block] / 2 * (
        on_x / variance_x[block] + on_y / variance_y[block]
    )
    return correlation, influence


def _sum_above(values: Array, block: NDArray[np.int64]) -> Callable[[Array], Array]:
    """A function that sums weights (values,) over the larger values of the same block, ties half, self included."""
    order = np.lexsort((values, block))
    ordered, ordered_block = values[order], block[order]
    changes = (ordered[1:] != ordered[:-1]) | (ordered_block[1:] != ordered_block[:-1])
    tie = np.empty(len(values), dtype=np.int64)
    tie[order] = np.concatenate([[0], np.cumsum(changes)])
    tie_block = ordered_block[np.concatenate([[True], changes])]
    last_tie = np.searchsorted(tie_block, tie_block, side="right") - 1  # of the tie's block

    def total(weights: Array) -> Array:
        tied = sums_by(weights, tie, len(tie_block))
        reached = np.cumsum(tied)
        above: Array = (reached[last_tie] - reached + tied / 2)[tie]
        return above

    return total


def placement_values(score: Array, positive: NDArray[np.bool_]) -> Array:
    """For each image the share of its run's other group that it stands on the right side of, ties half.

    score, positive: (runs, images). A positive is on the right side of lower scores, a negative of higher ones.
    """
    runs, images = score.shape
    above = _sum_above(score.reshape(-1), np.repeat(np.arange(runs), images))
    flat = positive.reshape(-1)
    positives_above = above(flat.astype(np.float64)).reshape(score.shape)
    negatives_above = above((~flat).astype(np.float64)).reshape(score.shape)
    positives, negatives = positive.sum(1, keepdims=True), (~positive).sum(1, keepdims=True)
    share: Array = np.where(positive, 1 - negatives_above / negatives, positives_above / positives)
    return share


def sums_by(weights: Array, label: NDArray[np.int64], labels: int) -> Array:
    """Sum of the weights (values,) of each label from 0 to labels - 1. Returns (labels,)."""
    sums: Array = np.bincount(label, weights, minlength=labels).astype(np.float64)
    return sums
