"""How often a wake phrase is missed, and how often it is heard where nobody said it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from .audio import SAMPLE_RATE
from .endpointing import GateConfig
from .features import Floats
from .grammar import Grammar
from .recogniser import Transcriber
from .wake import Spotter, for_phrases

AFTER = np.zeros(SAMPLE_RATE, np.float32)  # in which the network hears a clip to its end
STEP = SAMPLE_RATE // 10


@dataclass
class WakeScore:
    """``said``: of each clip with the phrase, the best score. ``others``: scores where it was not said."""

    said: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    seconds: float = 0.0  # of audio without the phrase

    def misses(self, threshold: float) -> float:
        """Share of the clips with the phrase in which it is not heard."""
        return sum(s < threshold for s in self.said) / len(self.said) if self.said else float("nan")

    def false_accepts(self, threshold: float) -> float:
        """In an hour of audio without the phrase."""
        count = sum(s >= threshold for s in self.others)
        return count / self.seconds * 3600.0 if self.seconds else float("nan")


def score(
    transcriber: Transcriber,
    phrases: Grammar,
    clips: Iterable[tuple[str, Floats]],
    advance: Callable[[], None] = lambda: None,
) -> WakeScore:
    """Hear clips (normalised text, float32 ``[n]`` at 16 kHz), each by itself, as the daemon hears them."""
    result = WakeScore()
    listener = for_phrases(transcriber, phrases)
    for text, samples in clips:
        spotter = Spotter(listener, GateConfig())
        audio = np.concatenate([samples, AFTER])
        for start in range(0, len(audio), STEP):
            spotter.accept_audio(audio[start : start + STEP])
        spotter.finish()
        scores = [woken.score for woken in spotter.past]
        words = text.split()
        if any(phrases.accepts(" ".join(words[:count])) for count in range(1, len(words) + 1)):
            result.said.append(max(scores, default=0.0))
        else:
            result.others += scores
            result.seconds += len(samples) / SAMPLE_RATE
        advance()
    return result
