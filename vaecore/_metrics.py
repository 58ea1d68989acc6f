"""Metrics of anomaly scores (AUROC, AUPR, FPR95) and of predicted probabilities (Brier score, NLL)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


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
    low, high = _scores(inside, "inside"), _scores(outside, "outside")
    threshold = np.quantile(low, 0.95, method="inverted_cdf")
    return float((high <= threshold).mean())


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
    low, high = _scores(inside, "inside"), _scores(outside, "outside")
    ranks = np.unique(np.concatenate([low, high]), return_inverse=True)[1].astype(np.float64)
    return np.repeat([0, 1], [len(low), len(high)]), ranks


def _scores(values: ArrayLike | Tensor, name: str) -> NDArray[np.float64]:
    scores = numbers(values)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must be a non-empty vector of scores, one for each image; got shape {scores.shape}")
    if missing := int(np.isnan(scores).sum()):
        raise ValueError(f"{name} scores must not be NaN; got {missing} of {scores.size} (did the model diverge?)")
    return scores


def _predictions(
    probabilities: ArrayLike | Tensor, labels: ArrayLike | Tensor
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    table, label = numbers(probabilities), numbers(labels)
    if table.ndim != 2 or table.size == 0 or label.shape != table.shape[:1]:
        raise ValueError(
            "probabilities must have shape (n, classes) and labels (n,), n at least 1;"
            f" got {table.shape} and {label.shape}"
        )
    if missing := int(np.isnan(table).any(1).sum()):
        raise ValueError(f"probabilities must not be NaN; got NaN for {missing} of {len(table)} images")
    if table.min() < 0 or not np.allclose(table.sum(1), 1, atol=1e-4):  # float32 softmax sums to 1 within 1e-6
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 for each image;"
            f" got a minimum of {table.min():.3g} and sums in [{table.sum(1).min():.4g}, {table.sum(1).max():.4g}]"
            " (logits? apply softmax first)"
        )
    if not (np.isin(label, np.arange(table.shape[1]))).all():
        raise ValueError(f"labels must be integers from 0 to {table.shape[1] - 1}; got [{label.min()}, {label.max()}]")
    return table, label.astype(np.int64)


def numbers(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    """A tensor or array-like as a float64 array."""
    plain = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    return np.asarray(plain, dtype=np.float64)
