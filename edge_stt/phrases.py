"""The decoder for phrases: which one was said, what stands in its slots, and whether it was one at all.

Beside the phrases runs a free loop of units, the *garbage*: how far the best phrase falls behind it, per unit, tells
phrases from other speech, as in J. G. Wilpon et al., "Automatic recognition of keywords in unconstrained speech using
hidden Markov models", IEEE Trans. ASSP 38, 1990. An utterance ends at a pause and is one phrase or none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .acceptor import Speller, compile_grammar
from .decoding import DecodedWord, Hypothesis, LogProbs, Phrase
from .errors import DecodingError
from .grammar import Grammar, SlotValue
from .phrase_search import BestPath, PhraseSearch, Trellis
from .units import SEPARATOR


@dataclass(frozen=True)
class PhraseConfig:
    """How phrases are found and believed. Written into a package by `edge-stt decoder calibrate`.

    ``separator_penalty``: words may also be divided by a blank, as if the separator's log-probability were the blank's
    less the penalty. An utterance ends after ``pause`` seconds without a unit, and at ``longest`` seconds. The score is
    a logistic function of the distance to the garbage, in nats per unit of the phrase, which is ≥ 0: ``offset`` −
    ``slope`` × distance. What scores below ``threshold`` is rejected.
    """

    separator_penalty: float = 2.0
    pause: float = 0.8
    longest: float = 24.0
    slope: float = 4.0
    offset: float = 4.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("separator_penalty", 0.0, math.inf),
            ("pause", 0.0, 60.0),
            ("longest", 1.0, 600.0),
            ("slope", 0.0, 1e3),
            ("offset", -1e3, 1e3),
            ("threshold", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise DecodingError(f"{name} of phrases must lie between {low:g} and {high:g}, not {value:g}")


@dataclass(frozen=True)
class PhraseState:
    """Where a search stands. Never changed: a state can be advanced more than once.

    ``trellis`` and ``garbage`` (log-probability of the free loop) are of the utterance that began at frame ``first``;
    ``quiet`` frames had no unit since the last one, if any was ``spoken``. ``heard`` are the phrases before.
    """

    frames: int
    first: int
    trellis: Trellis
    garbage: float
    spoken: bool
    quiet: int
    heard: tuple[Hypothesis, ...]


@dataclass(frozen=True)
class Match:
    """The best phrase for an utterance, believed or not. ``distance`` to the garbage is in nats per unit."""

    path: BestPath
    distance: float


class PhraseDecoder:
    """Only the phrases of a grammar can come out, or nothing. Use one for as many utterances as you like."""

    def __init__(
        self, grammar: Grammar, speller: Speller, config: PhraseConfig | None = None, frames_per_second: float = 25.0
    ) -> None:
        """Raises `DecodingError` for words that cannot be written in the model's units."""
        self.grammar, self.units, self.config = grammar, speller.units, config or PhraseConfig()
        self.acceptor = compile_grammar(grammar, speller)
        self._search = PhraseSearch(self.acceptor, self.config.separator_penalty)
        self._pause = max(1, round(self.config.pause * frames_per_second))
        self._longest = round(self.config.longest * frames_per_second)

    def start(self) -> PhraseState:
        """The state before the first frame."""
        return PhraseState(0, 0, self._search.start(), 0.0, False, 0, ())

    def advance(self, state: PhraseState, log_probs: LogProbs) -> PhraseState:
        """Search on through ``log_probs``, float32 ``[frames, units]``; how they are cut into chunks is no matter.

        Raises `DecodingError` for another shape and for NaN.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.units):
            shape = tuple(log_probs.shape)
            raise DecodingError(f"the decoder wants log-probabilities [frames, {len(self.units)}], not {shape}")
        if np.isnan(log_probs).any():
            raise DecodingError("the log-probabilities hold NaN: the model or its input is damaged")
        log_probs = np.maximum(log_probs, np.float32(-1e4))
        speech = (log_probs.argmax(axis=1) > SEPARATOR).tolist()
        begun, spoken, quiet = 0, state.spoken, state.quiet
        for t, is_unit in enumerate(speech):
            spoken, quiet = spoken or is_unit, 0 if is_unit else quiet + 1
            if quiet >= self._pause or state.frames + t + 1 - state.first >= self._longest:
                state = replace(self._listen(state, log_probs[begun : t + 1]), spoken=spoken, quiet=quiet)
                state = self._end(state)
                begun, spoken, quiet = t + 1, False, 0
        return replace(self._listen(state, log_probs[begun:]), spoken=spoken, quiet=quiet)

    def _listen(self, state: PhraseState, log_probs: LogProbs) -> PhraseState:
        """Further frames of the same utterance."""
        garbage = state.garbage
        for best in log_probs.max(axis=1).tolist():  # one by one, so that the sum does not depend on the chunks
            garbage += best
        frames = state.frames + len(log_probs)
        return replace(state, frames=frames, trellis=self._search.advance(state.trellis, log_probs), garbage=garbage)

    def _end(self, state: PhraseState) -> PhraseState:
        """The utterance is over."""
        heard = (*state.heard, self._hypothesis(state)) if state.spoken else state.heard
        return PhraseState(state.frames, state.frames, self._search.start(), 0.0, False, 0, heard)

    def match(self, state: PhraseState) -> Match | None:
        """The best phrase for the utterance at hand, whatever it scores; None when all phrases are too long."""
        path = self._search.best(state.trellis)
        return Match(path, self._distance(path, state)) if path is not None else None

    @staticmethod
    def _distance(path: BestPath, state: PhraseState) -> float:
        units = sum(len(word.tokens) for word in path.words)
        return (state.garbage - path.score) / max(1, units)

    def score(self, distance: float) -> float:
        """The probability that a phrase at this distance was said."""
        x = self.config.offset - self.config.slope * distance
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, x))))

    def best(self, state: PhraseState) -> Hypothesis:
        """What was accepted so far, and the whole words of a phrase that has begun, if it is one as far as it goes."""
        path = self._search.best_beginning(state.trellis) if state.spoken else BestPath(0.0, ())
        believed = path.words and self.score(self._distance(path, state)) >= self.config.threshold
        words = self._words(path, state.first, 0.0) if believed else ()
        done = _together(state.heard)
        return replace(done, words=done.words + words)

    def finish(self, state: PhraseState, n_best: int = 1) -> list[Hypothesis]:
        """The phrases that were said, alone in a list; rejected ones are in its ``phrases`` only."""
        return [_together(self._end(state).heard)]

    def stable_words(self, state: PhraseState) -> int:
        """How many words of `best` cannot change any more: those of phrases that are over."""
        return sum(len(part.words) for part in state.heard)

    def _hypothesis(self, state: PhraseState) -> Hypothesis:
        """What was said in the utterance at hand."""
        match = self.match(state)
        if match is None:
            return Hypothesis((), state.garbage, (), (Phrase("", state.first, state.frames, 0.0, False, {}),))
        score = self.score(match.distance)
        words = self._words(match.path, state.first, score)
        text = " ".join(word.text for word in words)
        accepted = score >= self.config.threshold
        phrase = Phrase(text, words[0].start, words[-1].end, score, accepted, self._slots(match.path))
        if not accepted:
            return Hypothesis((), state.garbage, (), (phrase,))
        tokens = [
            replace(token, start=token.start + state.first, end=token.end + state.first)
            for word in match.path.words
            for token in word.tokens
        ]
        return Hypothesis(words, match.path.score, tuple(tokens), (phrase,))

    def _words(self, path: BestPath, first: int, confidence: float) -> tuple[DecodedWord, ...]:
        return tuple(
            DecodedWord(word.label[0], first + word.tokens[0].start, first + word.tokens[-1].end, confidence)
            for word in path.words
        )

    def _slots(self, path: BestPath) -> dict[str, SlotValue]:
        """What stands in each slot, in the order they begin."""
        words: dict[str, list[str]] = {}
        for word in path.words:
            for slot in word.label[1]:
                words.setdefault(slot, []).append(word.label[0])
        return {slot: self.grammar.value(slot, said) for slot, said in words.items()}


def _together(parts: tuple[Hypothesis, ...]) -> Hypothesis:
    """Utterances one after another."""
    return Hypothesis(
        tuple(word for part in parts for word in part.words),
        sum(part.score for part in parts),
        tuple(token for part in parts for token in part.tokens),
        tuple(phrase for part in parts for phrase in part.phrases),
    )
