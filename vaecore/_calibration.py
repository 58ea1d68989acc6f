"""Calibration of confidences: reliability diagram, calibration error, temperature, and risk against coverage."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vaecore._check import check_choice, check_integer, check_seed, clip_rounding
from vaecore._metrics import numbers, table_and_labels

Vector = NDArray[np.float64]
Equal = Literal["width", "mass"]

_COLDEST, _HOTTEST = 1e-2, 1e2  # range of temperatures


@dataclass(frozen=True)
class Bin:
    """A bin of a reliability diagram: its ends, its number of images, their mean confidence and their accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(
    confidence: ArrayLike | Tensor, right: ArrayLike | Tensor, *, bins: int = 15, equal: Equal = "width"
) -> list[Bin]:
    """The bins of a reliability diagram, in order; empty ones are left out.

    confidence: (n,) in [0, 1]. right: (n,) boolean, whether each answer is right. equal: "width" cuts [0, 1] into equal
    intervals, each including its upper end and the first also 0; "mass" cuts the sorted confidences into parts of
    n / bins images, and equal confidences stay together.
    """
    score, hit = _answers(confidence, right)
    place, ends = _places(score, check_integer("bins", bins, 1), equal)
    filled = []
    for number in np.unique(place):
        in_bin = place == number
        means = float(score[in_bin].mean()), float(hit[in_bin].mean())
        filled.append(Bin(float(ends[number]), float(ends[number + 1]), int(in_bin.sum()), *means))
    return filled


def ece(confidence: ArrayLike | Tensor, right: ArrayLike | Tensor, *, bins: int = 15, equal: Equal = "width") -> float:
    """Expected calibration error: mean over images of |accuracy - confidence| of their bin (Naeini et al. 2015).

    Arguments as in `reliability`. Returns a number in [0, 1]; lower is better. It grows with the number of bins.
    """
    rows = reliability(confidence, right, bins=bins, equal=equal)
    return sum(row.count * abs(row.accuracy - row.confidence) for row in rows) / sum(row.count for row in rows)


def calibrated_ece(
    confidence: ArrayLike | Tensor, *, bins: int = 15, equal: Equal = "width", draws: int = 200, seed: int
) -> float:
    """The ECE that perfect calibration would give on average: each answer right with the chance of its confidence.

    confidence: (n,) in [0, 1]. bins, equal: as in `reliability`. draws: of all answers, over which the ECE is averaged.
    Returns a number in [0, 1], above 0 as images are finitely many: an ECE tells of calibration only as far as it
    exceeds this one. Consistency resampling (Broecker and Smith 2007).
    """
    score, _ = _answers(confidence, np.zeros(np.shape(numbers(confidence, "confidence"))))
    place = _places(score, check_integer("bins", bins, 1), equal)[0]
    draws = check_integer("draws", draws, 1)
    generator = np.random.default_rng(check_seed(seed))
    certain = (score == 0) | (score == 1)  # their answers are known
    doubtful, member = score[~certain], np.eye(place.max() + 1)[place[~certain]]  # (m,), (m, bins)
    gaps = [((generator.random(len(doubtful)) < doubtful) - doubtful) @ member for _ in range(draws)]
    return float(np.abs(gaps).sum(axis=1).mean() / len(score))


@dataclass(frozen=True)
class BrierParts:
    """Mean (confidence - right)^2, decomposed as reliability - resolution + uncertainty + within.

    Murphy (1973); `within` is the term of Stephenson et al. (2008) for confidences that differ within a bin.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_parts(
    confidence: ArrayLike | Tensor, right: ArrayLike | Tensor, *, bins: int = 15, equal: Equal = "width"
) -> BrierParts:
    """Decompose the Brier score of "the answer is right"; arguments as in `reliability`."""
    score, hit = _answers(confidence, right)
    rows = reliability(score, hit, bins=bins, equal=equal)
    weight = np.array([row.count for row in rows]) / len(score)
    mean, accuracy = np.array([row.confidence for row in rows]), np.array([row.accuracy for row in rows])
    rate = hit.mean()
    miscalibrated, resolved = float(weight @ (mean - accuracy) ** 2), float(weight @ (accuracy - rate) ** 2)
    uncertain, total = float(rate * (1 - rate)), float(((score - hit) ** 2).mean())
    return BrierParts(miscalibrated, resolved, uncertain, total - miscalibrated + resolved - uncertain)


def fit_temperature(logits: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """The temperature in [0.01, 100] that minimises the NLL of softmax(logits / temperature) (Guo et al. 2017).

    logits: (n, classes). labels: (n,) integers from 0 to classes - 1. Fit it on images that the classifier was not
    trained on. If all of them are classified correctly, the NLL has no minimum, and the temperature is 1. Raises
    ValueError for other shapes and labels, for probabilities, and for logits that are not finite.
    """
    table, label = table_and_labels(logits, labels, "logits")
    if (table >= 0).all() and np.allclose(table.sum(axis=1), 1, atol=1e-4):
        raise ValueError(
            "logits must be what a softmax takes; got rows from 0 to 1 that sum to 1 (probabilities? their logarithms"
            " are logits, probabilities.log(); better leave the softmax out)"
        )
    if bool((table.argmax(axis=1) == label).all()):
        return 1.0

    from scipy.optimize import minimize_scalar  # noqa: PLC0415  # takes ten times as long to import as this package
    from scipy.special import log_softmax  # noqa: PLC0415  # takes five times as long

    def nll(log_temperature: float) -> float:
        scores = log_softmax(table / np.exp(log_temperature), axis=1)
        return float(-scores[np.arange(len(label)), label].mean())

    minimum = minimize_scalar(nll, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(minimum.x))


def risk_coverage(doubt: ArrayLike | Tensor, wrong: ArrayLike | Tensor) -> tuple[Vector, Vector]:
    """Coverage and risk when the k least doubtful images are answered, k = 1 to n; both (n,), in [0, 1].

    doubt: (n,), higher is refused sooner. wrong: (n,) boolean. Risk is the share of wrong answers among those given.
    Equally doubtful images share their errors evenly, as if in random order.
    """
    score, miss = _answers(doubt, wrong, bounded=False)
    order = np.argsort(score, kind="stable")
    _, first, size = np.unique(score[order], return_index=True, return_counts=True)
    shared = np.repeat(np.add.reduceat(miss[order], first) / size, size)
    answered = np.arange(1, len(score) + 1)
    return answered / len(score), np.cumsum(shared) / answered


def aurc(doubt: ArrayLike | Tensor, wrong: ArrayLike | Tensor) -> float:
    """Area under the risk-coverage curve: the mean risk over coverages (Geifman and El-Yaniv 2017); lower is better."""
    return float(risk_coverage(doubt, wrong)[1].mean())


def _places(score: Vector, bins: int, equal: Equal) -> tuple[NDArray[np.intp], Vector]:
    """The number of each confidence's bin, (n,), and the ends of the bins."""
    check_choice("equal", equal, get_args(Equal))
    inner = np.linspace(0, 1, bins + 1)[1:-1] if equal == "width" else _quantiles(score, bins)
    return np.searchsorted(inner, score, side="left"), np.concatenate([[0.0], inner, [1.0]])


def _quantiles(score: Vector, bins: int) -> Vector:
    ordered = np.sort(score)
    cuts = np.ceil(np.arange(1, bins) * len(score) / bins).astype(int) - 1
    return np.unique(ordered[cuts.clip(0)])


def _answers(score: ArrayLike | Tensor, flag: ArrayLike | Tensor, *, bounded: bool = True) -> tuple[Vector, Vector]:
    values, flags = numbers(score, "the first argument"), numbers(flag, "the second argument")
    if values.ndim != 1 or values.size == 0 or flags.shape != values.shape:
        remedy = ""
        if values.ndim == 2:
            best = "probabilities.argmax(dim=1)"
            remedy = f" (probabilities? their confidence is probabilities.amax(dim=1), and right is {best} == labels)"
        raise ValueError(
            f"both arguments must be vectors of one length, 1 or more; got {values.shape} and {flags.shape}{remedy}"
        )
    if missing := int((~np.isfinite(values) if bounded else np.isnan(values)).sum()):
        infinite = " or infinite" if bounded else ""
        raise ValueError(f"the first argument must not be NaN{infinite}; got {missing} of {values.size}")
    if not np.isin(flags, [0, 1]).all():
        remedy = "labels? whether the answer is right: predicted == labels"
        if np.isin(values, [0, 1]).all():
            remedy = "in the other order? what is true or false comes second"
        raise ValueError(
            f"the second argument must be true or false; got numbers from {flags.min()} to {flags.max()} ({remedy})"
        )
    if bounded:
        cause = "logits? apply softmax first"
        values = clip_rounding(torch.from_numpy(values), "confidence", out_of_range=cause).numpy()
    return values, flags
