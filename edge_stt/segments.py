"""Long recordings in bounded memory: log-mel frames are cut into stretches at their quietest moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .features import Floats, FrontEndConfig


@dataclass(frozen=True)
class SegmentConfig:
    """Seconds: a stretch is at most ``longest``; the cut is made at the quietest ``smoothing`` after ``shortest``."""

    shortest: float = 12.0
    longest: float = 24.0
    smoothing: float = 0.2


def cut_at_silences(frames: Iterable[Floats], front_end: FrontEndConfig, config: SegmentConfig) -> Iterator[Floats]:
    """Regroup log-mel frames (float32 ``[n, n_mels]`` each) into stretches; joined they are the input, unchanged."""
    rate = front_end.frames_per_second
    shortest, longest = int(config.shortest * rate), int(config.longest * rate)
    pending = np.empty((0, front_end.n_mels), dtype=np.float32)
    for piece in frames:
        pending = np.concatenate([pending, piece])
        while len(pending) >= longest:
            cut = shortest + _quietest(pending[shortest:longest], int(config.smoothing * rate))
            yield pending[:cut]
            pending = pending[cut:]
    if len(pending):
        yield pending


def _quietest(frames: Floats, width: int) -> int:
    """Middle of the ``width`` frames with the lowest mean log energy."""
    energy = np.cumsum(np.concatenate([[0.0], frames.mean(axis=1, dtype=np.float64)]))
    sums = energy[width:] - energy[:-width]
    return int(sums.argmin()) + width // 2
