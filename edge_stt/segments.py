"""Long recordings in bounded memory: log-mel frames are cut into stretches at their quietest moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .features import Floats, FrontEndConfig


@dataclass(frozen=True)
class SegmentConfig:
    """Seconds. A stretch is at most ``longest``, and cut at the quietest moment after ``shortest``.

    A moment counts by its ``smoothing`` and by twice that: a sound between words is short, a pause is not.
    ``utterance_pause``: words that stand further apart than this are of different utterances.
    """

    shortest: float = 12.0
    longest: float = 24.0
    smoothing: float = 0.2
    utterance_pause: float = 0.8


def cut_at_silences(frames: Iterable[Floats], front_end: FrontEndConfig, config: SegmentConfig) -> Iterator[Floats]:
    """Regroup log-mel frames (float32 ``[n, n_mels]`` each) into stretches; joined they are the input, unchanged."""
    rate = front_end.frames_per_second
    shortest, longest = int(config.shortest * rate), int(config.longest * rate)
    width = max(1, int(config.smoothing * rate))
    waiting: list[Floats] = []
    count = 0
    for piece in frames:
        waiting.append(piece)
        count += len(piece)
        if count < longest:
            continue
        pending = np.concatenate(waiting)
        while len(pending) >= longest:
            cut = quietest(pending[:longest], shortest, width)
            yield pending[:cut]
            pending = pending[cut:]
        waiting, count = [pending.copy()], len(pending)  # a copy, to let go of what was cut off
    if count:
        yield np.concatenate(waiting)


def quietest(frames: Floats, first: int, width: int) -> int:
    """Index in ``frames`` (float32 ``[n, n_mels]``), not before ``first``, where a cut hurts least.

    Loudness is counted above the noise of this very stretch, bin by bin (its tenth percentile), so that a hum or a fan
    is silence as well. Of equally quiet moments the middle one of the longest row counts.
    """
    noise = np.percentile(frames, 10, axis=0)
    loudness = np.maximum(frames - noise, 0.0).mean(axis=1, dtype=np.float64)
    smoothed = _moving_mean(loudness, width) + _moving_mean(loudness, 2 * width)
    candidates = smoothed[first : max(first + 1, len(frames) - width // 2)]
    quiet = np.concatenate([[False], candidates <= candidates.min() + 1e-6, [False]])
    starts = np.flatnonzero(quiet[1:] & ~quiet[:-1])
    ends = np.flatnonzero(quiet[:-1] & ~quiet[1:])
    longest = int((ends - starts).argmax())
    return first + int(starts[longest] + ends[longest]) // 2


def _moving_mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Mean of the ``width`` values around each; fewer at the ends."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    low = np.clip(np.arange(len(values)) - width // 2, 0, None)
    high = np.clip(np.arange(len(values)) - width // 2 + width, 1, len(values))
    mean: npt.NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return mean
