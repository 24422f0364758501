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
from .decoding import DecodedToken, DecodedWord, Hypothesis, LogProbs, Phrase
from .errors import DecodingError
from .grammar import Grammar, SlotValue
from .phrase_search import BestPath, PhraseSearch, Trellis
from .units import BLANK, SEPARATOR

WINDOW = 0.24  # seconds, two or three units


@dataclass(frozen=True)
class PhraseConfig:
    """How phrases are found and believed. Written into a package by `edge-stt decoder calibrate`.

    ``separator_penalty``: words may also be divided by a blank, as if the separator's log-probability were the blank's
    less the penalty. An utterance ends after ``pause`` seconds without a unit, and at ``longest`` seconds. The score is
    a logistic function of how far a phrase falls behind the garbage: ``offset`` − ``overall`` × nats per unit −
    ``worst`` × nats in the worst `WINDOW`, which is where *off* was said for *on*. What scores below ``threshold`` is
    rejected.
    """

    separator_penalty: float = 2.0
    pause: float = 0.8
    longest: float = 24.0
    offset: float = 4.8
    overall: float = 2.5
    worst: float = 0.29
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (
            ("separator_penalty", 0.0, math.inf),
            ("pause", 0.0, 60.0),
            ("longest", 1.0, 600.0),
            ("offset", -1e3, 1e3),
            ("overall", 0.0, 1e3),
            ("worst", 0.0, 1e3),
            ("threshold", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise DecodingError(f"{name} of phrases must lie between {low:g} and {high:g}, not {value:g}")


@dataclass(frozen=True)
class Match:
    """The best phrase for an utterance, believed or not.

    How far it falls behind the garbage: ``overall`` in nats per unit, ``worst`` in nats in the worst `WINDOW`.
    """

    path: BestPath
    overall: float
    worst: float

    @property
    def text(self) -> str:
        """Its words."""
        return " ".join(word.label[0] for word in self.path.words)


@dataclass(frozen=True)
class Utterance:
    """Speech between two pauses, output frames ``[start, end)``; no match when all phrases are longer."""

    start: int
    end: int
    match: Match | None


@dataclass(frozen=True)
class PhraseState:
    """Where a search stands. Never changed: a state can be advanced more than once.

    ``trellis`` and ``garbage`` (log-probability of the free loop) are of the utterance that began at frame ``first``;
    ``quiet`` frames had no unit since the last one, if any was ``spoken``. ``heard`` is what came before.
    """

    frames: int
    first: int
    trellis: Trellis
    garbage: float
    spoken: bool
    quiet: int
    heard: tuple[Utterance, ...]


class PhraseDecoder:
    """Only the phrases of a grammar can come out, or nothing. Use one for as many utterances as you like."""

    def __init__(
        self, grammar: Grammar, speller: Speller, config: PhraseConfig | None = None, frames_per_second: float = 25.0
    ) -> None:
        """Raises `DecodingError` for words that cannot be written in the model's units."""
        self.grammar, self.units, self.config = grammar, speller.units, config or PhraseConfig()
        self.acceptor = compile_grammar(grammar, speller)
        self._search = PhraseSearch(self.acceptor, self.config.separator_penalty)
        self.frames_per_second = frames_per_second
        self._pause = max(1, round(self.config.pause * frames_per_second))
        self._window = max(1, round(WINDOW * frames_per_second))
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
        heard = state.heard
        if state.spoken:
            heard = (*heard, Utterance(state.first, state.frames, self.match(state)))
        return PhraseState(state.frames, state.frames, self._search.start(), 0.0, False, 0, heard)

    def match(self, state: PhraseState) -> Match | None:
        """The best phrase for the utterance at hand, whatever it scores; None when all phrases are too long."""
        path = self._search.best(state.trellis)
        return self._compare(path, state) if path is not None and path.words else None

    def _compare(self, path: BestPath, state: PhraseState) -> Match:
        """A path and the garbage, as a whole and where they differ most."""
        log_probs = state.trellis.log_probs
        spoken = log_probs[:, [BLANK, SEPARATOR]].max(axis=1)
        for token in path.tokens:
            spoken[token.start : token.end] = log_probs[token.start : token.end, token.unit]
        behind = np.cumsum(np.concatenate([[0.0], log_probs.max(axis=1) - spoken, np.zeros(self._window)]))
        worst = float((behind[self._window :] - behind[: -self._window]).max())
        return Match(path, (state.garbage - path.score) / max(1, len(path.tokens)), worst)

    def score(self, match: Match) -> float:
        """The probability that the phrase was said."""
        x = self.config.offset - self.config.overall * match.overall - self.config.worst * match.worst
        return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, x))))

    def best(self, state: PhraseState) -> Hypothesis:
        """What was accepted so far, and the whole words of a phrase that has begun, if it is one as far as it goes."""
        done = self._hypothesis(state.heard)
        if not state.spoken:
            return done
        path = self._search.best_beginning(state.trellis)
        score = self.score(self._compare(path, state))
        believed = score >= self.config.threshold
        return replace(done, words=done.words + self._words(path, state.first, score)) if believed else done

    def finish(self, state: PhraseState, n_best: int = 1) -> list[Hypothesis]:
        """The phrases that were said, alone in a list; rejected ones are in its ``phrases`` only."""
        return [self._hypothesis(self.utterances(state))]

    def utterances(self, state: PhraseState) -> tuple[Utterance, ...]:
        """All that was said, the utterance at hand included, each with the best phrase for it."""
        return self._end(state).heard

    def stable_words(self, state: PhraseState) -> int:
        """How many words of `best` cannot change any more: those of phrases that are over."""
        return len(self._hypothesis(state.heard).words)

    def _hypothesis(self, heard: tuple[Utterance, ...]) -> Hypothesis:
        """The words of what is believed, and what became of each utterance."""
        words: list[DecodedWord] = []
        tokens: list[DecodedToken] = []
        phrases: list[Phrase] = []
        total = 0.0
        for utterance in heard:
            match, start = utterance.match, utterance.start
            if match is None:
                phrases.append(Phrase("", start, utterance.end, 0.0, False, {}))
                continue
            score = self.score(match)
            said = self._words(match.path, start, score)
            accepted = score >= self.config.threshold
            slots = self._slots(match.path)
            phrases.append(Phrase(match.text, said[0].start, said[-1].end, score, accepted, slots))
            if accepted:
                words += said
                tokens += [replace(t, start=t.start + start, end=t.end + start) for t in match.path.tokens]
                total += match.path.score
        return Hypothesis(tuple(words), total, tuple(tokens), tuple(phrases))

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
