"""How far confidences can be believed: calibration error and its diagram, temperature, and refusing to answer."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax
from torch import Tensor

from vaecore._metrics import numbers

Vector = NDArray[np.float64]
Equal = Literal["width", "mass"]

_COLDEST, _HOTTEST = 1e-2, 1e2  # temperatures that are tried


@dataclass(frozen=True)
class Bin:
    """A bin of a reliability diagram: its ends, the images in it, their mean confidence and their accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(
    confidence: ArrayLike | Tensor, right: ArrayLike | Tensor, *, bins: int = 15, equal: Equal = "width"
) -> list[Bin]:
    """Bins of confidence that hold images, in order; empty ones are left out.

    confidence: (n,) in [0, 1]. right: (n,) boolean, whether the answer was. equal: "width" cuts [0, 1] into equal
    parts, of which each holds its upper end (the first its lower one too, so that every confidence from 0 to 1 is
    counted); "mass" cuts the sorted confidences into parts of n / bins images, equal ones staying together.
    """
    score, hit = _answers(confidence, right)
    if bins < 1:
        raise ValueError(f"bins must be 1 or more; got {bins}")
    if equal not in ("width", "mass"):
        raise ValueError(f"equal must be 'width' or 'mass'; got {equal!r}")
    inner = np.linspace(0, 1, bins + 1)[1:-1] if equal == "width" else _quantiles(score, bins)
    place = np.searchsorted(inner, score, side="left")
    ends = np.concatenate([[0.0], inner, [1.0]])
    found = []
    for number in np.unique(place):
        of_bin = place == number
        count = int(of_bin.sum())
        means = float(score[of_bin].mean()), float(hit[of_bin].mean())
        found.append(Bin(float(ends[number]), float(ends[number + 1]), count, *means))
    return found


def ece(confidence: ArrayLike | Tensor, right: ArrayLike | Tensor, *, bins: int = 15, equal: Equal = "width") -> float:
    """Expected calibration error: the mean over images of |accuracy - confidence| of their bin (Naeini et al. 2015).

    Arguments as in `reliability`. Returns a number in [0, 1], lower is better; it grows with the number of bins.
    """
    rows = reliability(confidence, right, bins=bins, equal=equal)
    return sum(row.count * abs(row.accuracy - row.confidence) for row in rows) / sum(row.count for row in rows)


@dataclass(frozen=True)
class BrierParts:
    """The Brier score of being right, mean (confidence - right)^2, as reliability - resolution + uncertainty + within.

    Murphy (1973), with the term of Stephenson et al. (2008) for confidences that differ within a bin.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_parts(
    confidence: ArrayLike | Tensor, right: ArrayLike | Tensor, *, bins: int = 15, equal: Equal = "width"
) -> BrierParts:
    """The parts of the Brier score of being right; arguments as in `reliability`."""
    score, hit = _answers(confidence, right)
    rows = reliability(score, hit, bins=bins, equal=equal)
    weight = np.array([row.count for row in rows]) / len(score)
    mean, accuracy = np.array([row.confidence for row in rows]), np.array([row.accuracy for row in rows])
    rate = hit.mean()
    miscalibrated, resolved = float(weight @ (mean - accuracy) ** 2), float(weight @ (accuracy - rate) ** 2)
    uncertain, total = float(rate * (1 - rate)), float(((score - hit) ** 2).mean())
    return BrierParts(miscalibrated, resolved, uncertain, total - miscalibrated + resolved - uncertain)


def fit_temperature(logits: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """The temperature, from 0.01 to 100, at which softmax(logits / temperature) has the least NLL (Guo et al. 2017).

    logits: (n, classes). labels: (n,) integers. Fit it on images that the classifier was not trained on. Where it gets
    all of them right, NLL falls for ever as the temperature does, and nothing is to be learned from them: 1.
    """
    table, label = numbers(logits), numbers(labels).astype(np.int64)
    if table.ndim != 2 or len(table) == 0 or label.shape != table.shape[:1] or not np.isfinite(table).all():
        raise ValueError(
            "logits must be finite and of shape (n, classes), and labels (n,), n at least 1;"
            f" got {table.shape} and {label.shape}"
        )

    if bool((table.argmax(axis=1) == label).all()):
        return 1.0

    from scipy.optimize import minimize_scalar  # noqa: PLC0415  # half of what importing this package would take

    def nll(log_temperature: float) -> float:
        scores = log_softmax(table / np.exp(log_temperature), axis=1)
        return float(-scores[np.arange(len(label)), label].mean())

    found = minimize_scalar(nll, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def risk_coverage(doubt: ArrayLike | Tensor, wrong: ArrayLike | Tensor) -> tuple[Vector, Vector]:
    """Coverage and risk where ever more images are answered, from the least doubtful on; both (n,).

    doubt: (n,), higher is refused sooner. wrong: (n,) boolean. Risk is the share of wrong answers among those given. Of
    images equally doubtful each takes its share, as if their order were random.
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


def _quantiles(score: Vector, bins: int) -> Vector:
    ordered = np.sort(score)
    cuts = np.ceil(np.arange(1, bins) * len(score) / bins).astype(int) - 1
    return np.unique(ordered[cuts.clip(0)])


def _answers(score: ArrayLike | Tensor, flag: ArrayLike | Tensor, *, bounded: bool = True) -> tuple[Vector, Vector]:
    values, flags = numbers(score), numbers(flag)
    if values.ndim != 1 or values.size == 0 or flags.shape != values.shape:
        raise ValueError(f"both must be vectors of one length, 1 or more; got {values.shape} and {flags.shape}")
    if np.isnan(values).any() or not np.isin(flags, [0, 1]).all():
        raise ValueError("the first must not be NaN, and the second true or false")
    if bounded and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"confidence must be from 0 to 1; got [{values.min():.3g}, {values.max():.3g}]")
    return values, flags
