"""Made-up CTC outputs with the habits of real ones: mostly blank, peaks one or two frames long, and confusions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_stt.decoding import LogProbs
from edge_stt.units import BLANK

SENTENCES = (
    "it was the best of times it was the worst of times",
    "turn the light in the kitchen off",
    "she had been there before and knew the way",
    "the quick brown fox jumps over the lazy dog",
    "nothing would have made him go back to the old house",
    "will you please tell me what time it is",
    "they were all of them much too tired to talk",
    "a letter had come for her in the afternoon",
)


def normalise(logits: np.ndarray) -> LogProbs:
    """Logits ``[frames, units]`` to log-probabilities."""
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def random_log_probs(seed: int, frames: int, units: int, sharpness: float = 2.0) -> LogProbs:
    """Noise: every frame and unit apart."""
    return normalise(np.random.default_rng(seed).normal(0.0, sharpness, (frames, units)))


def peaky_log_probs(seed: int, labels: Sequence[int], units: int, errors: float = 0.2, margin: float = 9.0) -> LogProbs:
    """Units spoken one after another; in ``errors`` of them the right unit is no longer clearly ahead."""
    rng = np.random.default_rng(seed)
    rows: list[np.ndarray] = []

    def blanks(count: int) -> None:
        for _ in range(count):
            row = rng.normal(0.0, 1.5, units)
            row[BLANK] += rng.choice([13.0, 6.0], p=[0.85, 0.15])
            rows.append(row)

    blanks(4)
    previous = None
    for unit in labels:
        blanks(int(rng.integers(1, 3)) if unit == previous else int(rng.integers(0, 3)))
        row = rng.normal(0.0, 1.3, units)
        row[unit] += 3.0 if rng.random() < errors else margin
        row[BLANK] += rng.normal(2.5, 1.5)
        rows.append(row)
        if rng.random() < 0.15:
            rows.append(row + rng.normal(0.0, 0.5, units))
        previous = unit
    blanks(4)
    return normalise(np.array(rows))


def clear_log_probs(labels: Sequence[int], units: int) -> LogProbs:
    """Unit i of ``labels`` holds frames 3 i + 3 and 3 i + 4, all else is blank, and nothing is in doubt."""
    logits = np.full((3 * len(labels) + 6, units), -8.0)
    logits[:, BLANK] = 2.0
    for i, unit in enumerate(labels):
        logits[3 * i + 3 : 3 * i + 5, unit] = 7.0
    return normalise(logits)


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]
