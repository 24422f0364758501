"""What decoders return, and the simplest of them: greedy CTC.

Decoders see log-probabilities, float32 ``[frames, units]`` (natural logarithm, unit 0 the blank), and speak of output
frames; the recogniser turns frames into seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .units import BLANK, SEPARATOR, UnitSet

LogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """One emitted unit: its index, the output frames ``[start, end)`` it holds, its mean probability there."""

    unit: int
    start: int
    end: int
    probability: float


@dataclass(frozen=True, slots=True)
class DecodedWord:
    """One word: output frames ``[start, end)`` and a confidence in 0..1."""

    text: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True)
class Phrase:
    """One phrase of a grammar that was said, or one that came nearest: ``accepted`` says which.

    Output frames ``[start, end)``; ``score`` is a probability in 0..1, ``slots`` what was said in the named places.
    """

    text: str
    start: int
    end: int
    score: float
    accepted: bool
    slots: dict[str, str | int]


@dataclass(frozen=True)
class Hypothesis:
    """One reading of an utterance. ``score`` is the total natural log score the decoder ranked it by.

    ``phrases``: where only phrases can be said, what was heard between the pauses, rejected phrases too; their words
    are not among the ``words``.
    """

    words: tuple[DecodedWord, ...]
    score: float
    tokens: tuple[DecodedToken, ...] = ()
    phrases: tuple[Phrase, ...] = ()

    @property
    def text(self) -> str:
        """The words with a space between."""
        return " ".join(word.text for word in self.words)


def greedy_tokens(log_probs: LogProbs) -> list[DecodedToken]:
    """Best path: the likeliest unit of each frame, repeats merged, blanks dropped (A. Graves et al., ICML 2006)."""
    if len(log_probs) == 0:
        return []
    best = log_probs.argmax(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], best[1:] != best[:-1]]))
    lengths = np.diff(starts, append=len(best))
    peak = np.exp(np.take_along_axis(log_probs, best[:, None], axis=1)[:, 0])
    means = np.add.reduceat(peak, starts) / lengths.astype(np.float32)
    # Lists, and no numpy call a token: a stream asks for the best path with every partial result.
    runs = zip(best[starts].tolist(), starts.tolist(), (starts + lengths).tolist(), means.tolist(), strict=True)
    return [DecodedToken(*run) for run in runs if run[0] != BLANK]


def words_from_tokens(tokens: list[DecodedToken], units: UnitSet) -> tuple[DecodedWord, ...]:
    """Group tokens into words at separators. A word's confidence is the geometric mean of its units' probabilities."""
    words: list[DecodedWord] = []
    group: list[DecodedToken] = []
    for token in [*tokens, None]:
        if token is not None and token.unit != SEPARATOR:
            group.append(token)
        elif group:
            glue = "" if units.kind == "characters" else " "
            text = glue.join(units.symbols[t.unit] for t in group)
            confidence = math.exp(sum(math.log(max(t.probability, 1e-10)) for t in group) / len(group))
            words.append(DecodedWord(text, group[0].start, group[-1].end, confidence))
            group = []
    return tuple(words)


def greedy(log_probs: LogProbs, units: UnitSet) -> Hypothesis:
    """Decode greedily. ``score`` is the log-probability of the best path."""
    tokens = greedy_tokens(log_probs)
    score = float(log_probs.max(axis=1).sum()) if len(log_probs) else 0.0
    return Hypothesis(words_from_tokens(tokens, units), score, tuple(tokens))
