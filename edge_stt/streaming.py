"""Audio as it comes, text as it is said: partial results that grow, a final one at each pause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .decoding import LogProbs
from .features import Floats, RunningNormaliser, StreamingLogMel
from .recogniser import Transcriber, Word
from .units import SEPARATOR


@dataclass(frozen=True)
class EndpointConfig:
    """Seconds: an utterance ends after ``trailing_silence`` without a unit, or when it is ``longest``."""

    trailing_silence: float = 0.8
    longest: float = 24.0


@dataclass(frozen=True)
class Partial:
    """What was said so far in an utterance that goes on; later results may change it. ``start`` in seconds."""

    text: str
    start: float


@dataclass(frozen=True)
class Final:
    """A whole utterance; times in seconds from the beginning of the stream."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...]


class StreamingTranscriber:
    """Takes 16 kHz mono audio in pieces of any size and gives events; shares the model of a `Transcriber`.

    The events do not depend on the sizes of the pieces, but for which partials are seen on the way.
    """

    def __init__(self, transcriber: Transcriber, endpoint: EndpointConfig | None = None) -> None:
        self._transcriber, self._info = transcriber, transcriber.info
        self._front_end = StreamingLogMel(self._info.front_end)
        self._normaliser = RunningNormaliser(self._info.statistics, self._info.normalization)
        endpoint = endpoint or EndpointConfig()
        self._silence = max(1, round(endpoint.trailing_silence / transcriber.frame_seconds))
        chunk = self._info.stream.chunk_frames if self._info.stream else self._info.stride
        self._chunk = chunk
        self._longest = max(1, round(endpoint.longest * self._info.front_end.frames_per_second / chunk)) * chunk
        self._pending = np.empty((0, self._info.front_end.n_mels), dtype=np.float32)
        self._offset = 0  # log-mel frames before the utterance
        self._begin()

    def _begin(self) -> None:
        """A new utterance, with nothing remembered of the one before."""
        self._normaliser.reset()
        self._stream = self._transcriber.acoustic.stream()
        self._state = self._transcriber.decoder.start()
        self._frames = 0  # log-mel frames of this utterance
        self._quiet = 0  # output frames since the last unit
        self._spoken = False
        self._shown = ""

    def accept_audio(self, samples: Floats) -> list[Partial | Final]:
        """Take float32 ``[n]`` samples; returns what they brought, nothing as often as not."""
        self._pending = np.concatenate([self._pending, self._front_end.accept(samples)])
        events: list[Partial | Final] = []
        while len(self._pending) >= self._chunk:
            events += self._advance(self._pending[: self._chunk])
            self._pending = self._pending[self._chunk :]
        return events

    def finish(self) -> list[Partial | Final]:
        """End of the audio: the last final, if anything was said. The next audio begins a new stream."""
        rest, self._pending = self._pending, self._pending[:0]
        if len(rest):
            self._hear(self._stream.accept(self._normaliser(rest))[self._transcriber.head])
            self._frames += len(rest)
        events = self._end()
        self._front_end.reset()
        self._offset = 0
        return events

    def _advance(self, frames: Floats) -> list[Partial | Final]:
        """One chunk of log-mel frames."""
        self._hear(self._stream.accept(self._normaliser(frames))[self._transcriber.head])
        self._frames += len(frames)
        if (self._spoken and self._quiet >= self._silence) or self._frames >= self._longest:
            return self._end()
        if self._quiet:  # a partial cannot have changed
            return []
        text = self._transcriber.decoder.best(self._state).text
        if not text or text == self._shown:
            return []
        self._shown = text
        return [Partial(text, self._seconds(0))]

    def _hear(self, log_probs: LogProbs) -> None:
        """Decode further output frames, and count those without a unit."""
        self._state = self._transcriber.decoder.advance(self._state, log_probs)
        units = np.flatnonzero(log_probs.argmax(axis=1) > SEPARATOR)
        if len(units):
            self._spoken = True
            self._quiet = len(log_probs) - 1 - int(units[-1])
        else:
            self._quiet += len(log_probs)

    def _end(self) -> list[Partial | Final]:
        """Flush the network, read the whole utterance, and begin another."""
        self._hear(self._stream.finish()[self._transcriber.head])
        hypothesis = self._transcriber.decoder.finish(self._state)[0]
        words = tuple(
            Word(word.text, self._seconds(word.start), self._seconds(word.end), round(word.confidence, 4))
            for word in hypothesis.words
        )
        start, end = self._seconds(0), self._seconds(-(-self._frames // self._info.stride))
        self._offset += self._frames
        self._begin()
        return [Final(hypothesis.text, start, end, words)] if words else []

    def _seconds(self, output_frame: int) -> float:
        """Time in the stream of an output frame of this utterance."""
        start = self._offset / self._info.front_end.frames_per_second
        return round(start + output_frame * self._transcriber.frame_seconds, 3)
