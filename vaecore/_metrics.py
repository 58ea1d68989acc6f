"""Metrics of anomaly scores (AUROC, AUPR, FPR95) and of predicted probabilities (Brier score, NLL)."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from vaecore._check import clip_rounding
from vaecore._remedies import from_one, of_labels


def auroc(inside: ArrayLike | Tensor, outside: ArrayLike | Tensor) -> float:
    """Probability that an outside image scores higher than an inside image; ties count half.

    inside: (n,), outside: (m,) scores, higher is more anomalous; infinite scores rank like any other. Returns a number
    in [0, 1], 0.5 for useless scores. Raises ValueError for NaN, for another shape and without images.
    """
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415  # takes seconds to import

    labels, scores = _labelled(inside, outside)
    return float(roc_auc_score(labels, scores))


def aupr(inside: ArrayLike | Tensor, outside: ArrayLike | Tensor) -> float:
    """Average precision with outside images as positives ("AUPR-out").

    inside: (n,), outside: (m,) scores, higher is more anomalous. Returns a number in (0, 1], m / (n + m) for useless
    scores. AUPR-in is `aupr(-outside, -inside)`. Raises ValueError as `auroc` does.
    """
    from sklearn.metrics import average_precision_score  # noqa: PLC0415  # takes seconds to import

    labels, scores = _labelled(inside, outside)
    return float(average_precision_score(labels, scores))


def fpr95(inside: ArrayLike | Tensor, outside: ArrayLike | Tensor) -> float:
    """Share of outside images accepted at the threshold that accepts 95% of the inside images.

    inside: (n,), outside: (m,) scores, higher is more anomalous. The threshold is the smallest inside score that is not
    exceeded by at least 95% of the inside images; scores up to it are accepted. Returns a number in [0, 1]; lower is
    better. Inside images are the positives, as in Hendrycks & Gimpel 2017. Raises ValueError as `auroc` does.
    """
    low, high = _of_both(inside, outside)
    threshold = np.quantile(low, 0.95, method="inverted_cdf")
    return float((high <= threshold).mean())


def conformal_p_values(calibration: ArrayLike | Tensor, scores: ArrayLike | Tensor) -> NDArray[np.float64]:
    """For each image, the chance of a score as high as its own if it is exchangeable with the calibration images.

    calibration: (m,) scores of images inside that nothing was fitted on, scores: (n,); higher is more anomalous.
    Returns (n,), from 1 / (m + 1) to 1: the share of calibration scores that are at least as high, the image's own
    counted as one. An alarm at values up to a level is false that often at most, on average over calibration sets. For
    many images, `scipy.stats.false_discovery_control` of these values bounds the share of false alarms among all
    alarms. Raises ValueError as `auroc` does. Source: Bates et al. 2023, marginal conformal p-values.
    """
    known, new = np.sort(_scores(calibration, "calibration")), _scores(scores, "scores")
    as_high = len(known) - np.searchsorted(known, new, side="left")
    return np.asarray((1 + as_high) / (1 + len(known)))


def brier(probabilities: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """Squared distance between probabilities and one-hot label, summed over classes, mean over images (Brier 1950).

    probabilities: (n, classes), rows sum to 1. labels: (n,) integers. Returns a number in [0, 2]; lower is better.
    Raises ValueError for NaN, rows that do not sum to 1, labels out of range, and without images.
    """
    table, label = _predictions(probabilities, labels)
    return float(((table - np.eye(table.shape[1])[label]) ** 2).sum(1).mean())


def nll(probabilities: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> float:
    """Mean negative log-likelihood of the labels, in nats.

    probabilities: (n, classes), rows sum to 1. labels: (n,) integers. Returns 0 or more; lower is better, and infinite
    if a label has probability 0. Raises ValueError as `brier` does.
    """
    table, label = _predictions(probabilities, labels)
    with np.errstate(divide="ignore"):  # log 0 is the infinity documented above
        return float(-np.log(table[np.arange(len(label)), label]).mean())


def _labelled(inside: ArrayLike | Tensor, outside: ArrayLike | Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels (0 inside, 1 outside), and ranks in place of scores, as scikit-learn refuses infinite scores."""
    low, high = _of_both(inside, outside)
    ranks = np.unique(np.concatenate([low, high]), return_inverse=True)[1].astype(np.float64)
    return np.repeat([0, 1], [len(low), len(high)]), ranks


def _of_both(
    inside: ArrayLike | Tensor, outside: ArrayLike | Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The scores of both sets; raises ValueError also for labels in place of one, as scikit-learn takes them."""
    low, high = _scores(inside, "inside"), _scores(outside, "outside")
    for name, labels, given, scores in (("inside", low, inside, high), ("outside", high, outside, low)):
        are_labels = {*np.unique(labels)} == {0, 1} and not _are_fractions(given)
        if are_labels and len(labels) == len(scores) and not np.isin(scores, [0, 1]).all():
            raise ValueError(
                f"{name} must be scores of the images {name}; got 0 and 1 alone (labels, 1 for outside? give"
                " scores[labels == 0], scores[labels == 1])"
            )
    return low, high


def _are_fractions(values: ArrayLike | Tensor) -> bool:
    """Whether numbers are of a floating point type."""
    return values.is_floating_point() if isinstance(values, Tensor) else np.asarray(values).dtype.kind == "f"


def _scores(values: ArrayLike | Tensor, name: str) -> NDArray[np.float64]:
    scores = numbers(values, name)
    if scores.ndim != 1 or scores.size == 0:
        remedy = f" (a column: {name}.squeeze(1))" if scores.ndim == 2 and scores.shape[1] == 1 else ""
        raise ValueError(
            f"{name} must be a non-empty vector of scores, one for each image; got shape {scores.shape}{remedy}"
        )
    if missing := int(np.isnan(scores).sum()):
        raise ValueError(f"{name} scores must not be NaN; got {missing} of {scores.size} (did the model diverge?)")
    return scores


def _predictions(
    probabilities: ArrayLike | Tensor, labels: ArrayLike | Tensor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table, label = table_and_labels(probabilities, labels, "probabilities")
    cause = "logits? apply softmax first"
    table = clip_rounding(torch.from_numpy(table), "probabilities", out_of_range=cause).numpy()
    sums = table.sum(1)
    if not np.allclose(sums, 1, atol=1e-4):  # float32 softmax sums to 1 within 1e-6
        raise ValueError(
            "probabilities must sum to 1 for each image;"
            f" got sums in [{sums.min():.5g}, {sums.max():.5g}] (a row for each image, a column for each class?)"
        )
    return table, label


def table_and_labels(
    values: ArrayLike | Tensor, labels: ArrayLike | Tensor, name: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A finite table (n, classes), called `name`, and a label for each row, from 0 to classes - 1; else ValueError."""
    table, label = numbers(values, name), numbers(labels, "labels")
    if table.ndim != 2 or table.size == 0 or label.shape != table.shape[:1]:
        remedy = of_labels(label, len(table), "labels") if table.ndim == 2 and label.ndim == 2 else ""
        if table.ndim == 1 and label.ndim == 2:
            remedy = f" (in the other order? {name} come first)"
        elif table.ndim == 1 and table.shape == label.shape:
            remedy = " (those of all classes, not of the label or of the likeliest class alone)"
        raise ValueError(
            f"{name} must have shape (n, classes) and labels (n,), n at least 1; got {table.shape} and {label.shape}"
            f"{remedy}"
        )
    if missing := int((~np.isfinite(table)).any(1).sum()):
        raise ValueError(f"{name} must be finite; got NaN or infinity for {missing} of {len(table)} images")
    if not np.isin(label, np.arange(table.shape[1])).all():
        raise ValueError(
            f"labels must be integers from 0 to {table.shape[1] - 1}; got [{label.min()}, {label.max()}]"
            f"{from_one(label, table.shape[1])}"
        )
    return table, label.astype(np.int64)


def numbers(values: ArrayLike | Tensor, name: str) -> NDArray[np.float64]:
    """A tensor or array-like, called `name`, as a float64 array; raises TypeError unless it holds real numbers."""
    wanted = f"{name} must be a tensor, an array or a list of numbers"
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values if values.is_complex() else values.double()  # numpy has no bfloat16
    try:
        array = np.asarray(values)
    except (ValueError, RuntimeError) as error:  # lists of unequal length, lists of tensors with gradients
        raise TypeError(f"{wanted}; got {type(values).__name__} that is no array ({error})") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{wanted}; got {array.dtype}")
    return array.astype(np.float64, order="C")
