"""Logistic regression: what makes a score a probability."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RIDGE = 0.1  # keeps the fit finite where the classes do not overlap
STEPS = 50  # of Newton's method


def fit_logistic(features: Floats, outcome: npt.NDArray[np.bool_], weight: Floats | None = None) -> Floats:
    """Weights w that make 1 / (1 + exp(-features · w)) the probability of ``outcome`` (bool ``[n]``).

    ``features`` are ``[n, k]``, with a column of ones where an offset is wanted; ``weight`` ``[n]`` is how much each
    counts.
    """
    counts = np.ones(len(features)) if weight is None else weight
    w = np.zeros(features.shape[1])
    for _ in range(STEPS):
        p = probability(features, w)
        gradient = features.T @ (counts * (outcome - p)) - RIDGE * w
        curvature = (features * (counts * p * (1 - p))[:, None]).T @ features + RIDGE * np.eye(len(w))
        w = w + np.linalg.solve(curvature, gradient)
    return w


def probability(features: Floats, weights: Floats) -> Floats:
    """1 / (1 + exp(-features · weights)), ``[n]``."""
    result: Floats = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -30.0, 30.0)))
    return result
