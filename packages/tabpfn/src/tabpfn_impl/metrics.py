"""Measures of probabilistic classification: log-loss, AUC one against one, accuracy, calibration error."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = ["Scores", "auc_ovo", "calibration_error", "log_loss", "score"]


@dataclass(frozen=True)
class Scores:
    """How good predicted probabilities are."""

    auc: float
    log_loss: float
    accuracy: float
    calibration_error: float


def score(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> Scores:
    """All measures.

    Args:
        labels: (n,) class indices.
        probabilities: (n, classes), rows summing to 1.

    Raises:
        ValueError: fewer than two classes occur in the labels, or the shapes do not fit.
    """
    if probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise ValueError(
            f"probabilities must be (n, classes) for n labels, got {probabilities.shape} for {len(labels)} labels"
        )
    return Scores(
        auc=auc_ovo(labels, probabilities),
        log_loss=log_loss(labels, probabilities),
        accuracy=float(np.mean(probabilities.argmax(1) == labels)),
        calibration_error=calibration_error(labels, probabilities),
    )


def auc_ovo(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Area under the ROC curve, the mean over all pairs of classes that occur (Hand and Till 2001); ties count half.

    Raises:
        ValueError: fewer than two classes occur.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"the area under the ROC curve needs two classes, got {classes.tolist()}")
    areas = []
    for i, a in enumerate(classes):
        for b in classes[i + 1 :]:
            pair = (labels == a) | (labels == b)
            areas += [_auc(labels[pair] == positive, probabilities[pair, positive]) for positive in (a, b)]
    return float(np.mean(areas))


def _auc(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    n = int(positive.sum())
    m = len(positive) - n
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def log_loss(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Mean of -ln of the probability of the true class, at least 1e-15."""
    picked = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(picked.astype(np.float64), 1e-15)).mean())


def calibration_error(labels: NDArray[np.integer], probabilities: NDArray[np.floating], bins: int = 15) -> float:
    """Expected calibration error: the mean of |accuracy - confidence| over equal bins of confidence, by their rows."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    total = 0.0
    for b in np.unique(at):
        mask = at == b
        total += mask.mean() * abs(float(right[mask].mean()) - float(confidence[mask].mean()))
    return total
