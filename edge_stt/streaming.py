"""Audio as it comes, text as it is said: partial results that grow, a final one at each pause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .audio import convert_samples
from .decoding import LogProbs
from .features import Floats, RunningNormaliser, StreamingLogMel
from .recogniser import Transcriber, Word
from .units import SEPARATOR


@dataclass(frozen=True)
class EndpointConfig:
    """When an utterance ends, in seconds: after ``trailing_silence`` without a unit, and at ``longest`` in any case.

    From half of ``longest`` on, less and less silence is enough, down to ``shortest_pause``, so that a long utterance
    ends between words rather than in one. After ``idle`` without any unit the utterance begins anew, with the last
    ``kept`` of the audio, lest the first words after a long silence meet the end at ``longest``.
    """

    trailing_silence: float = 0.8
    shortest_pause: float = 0.16
    longest: float = 24.0
    idle: float = 4.0
    kept: float = 1.0

    def silence_needed(self, length: float) -> float:
        """Seconds without a unit that end an utterance which is ``length`` seconds long."""
        late = min(1.0, max(0.0, 2.0 * length / self.longest - 1.0))
        return self.trailing_silence + late * min(0.0, self.shortest_pause - self.trailing_silence)


@dataclass(frozen=True, slots=True)
class Partial:
    """What was said so far in an utterance that goes on; later results may change it. ``start`` in seconds."""

    text: str
    start: float


@dataclass(frozen=True, slots=True)
class Final:
    """A whole utterance; times in seconds from the beginning of the stream."""

    text: str
    start: float
    end: float
    words: tuple[Word, ...]


class StreamingTranscriber:
    """Takes 16 kHz audio in pieces of any size and gives events; shares the model of a `Transcriber`.

    The events do not depend on the sizes of the pieces, but for which partials are seen on the way. Raises
    `PackageError` when the model has no streaming form.
    """

    def __init__(self, transcriber: Transcriber, endpoint: EndpointConfig | None = None) -> None:
        self._transcriber, self._info = transcriber, transcriber.info
        self.endpoint = endpoint or EndpointConfig()
        self._front_end = StreamingLogMel(self._info.front_end)
        self._normaliser = RunningNormaliser(self._info.statistics, self._info.normalization)
        self._chunk = self._info.stream.chunk_frames if self._info.stream else self._info.stride
        self._kept = round(self.endpoint.kept / transcriber.frame_seconds)
        self._pending = np.empty((0, self._info.front_end.n_mels), dtype=np.float32)
        self._offset = 0  # log-mel frames before the utterance
        self._begin()

    def _begin(self) -> None:
        """A new utterance, with nothing remembered of the one before."""
        self._normaliser.reset()
        self._stream = self._transcriber.acoustic.stream()
        self._state = self._transcriber.decoder.start()
        self._heard: list[Floats] = []  # log-mel frames of this utterance that the network was given
        self._read = 0  # output frames that the decoder was given
        self._quiet = 0  # of these, those since the last unit
        self._spoken = False
        self._shown = ""

    def accept_audio(self, samples: npt.ArrayLike) -> list[Partial | Final]:
        """Take the next samples at 16 kHz; returns what they brought, nothing as often as not.

        They are ``[n]`` or ``[n, channels]``, floats in -1..1 or integers; raises `AudioError` for anything else, and
        for samples that are not finite.
        """
        frames = self._front_end.accept(convert_samples(samples, self._info.front_end.sample_rate))
        self._pending = np.concatenate([self._pending, frames])
        events: list[Partial | Final] = []
        while len(self._pending) >= self._chunk:
            chunk, self._pending = self._pending[: self._chunk], self._pending[self._chunk :]
            self._listen(chunk)
            events += self._events()
        return events

    def finish(self) -> list[Partial | Final]:
        """End of the audio: the last final, if anything was said. The next audio begins a new stream."""
        self._listen(self._pending)
        self._decode(self._stream.finish()[self._transcriber.head])
        events = self._final()
        self._pending = self._pending[:0]
        self._front_end.reset()
        self._offset = 0
        self._begin()
        return events

    def _listen(self, frames: Floats) -> None:
        """Give further log-mel frames to the network, and what it makes of them to the decoder."""
        self._heard.append(frames)
        self._decode(self._stream.accept(self._normaliser(frames))[self._transcriber.head])

    def _decode(self, log_probs: LogProbs) -> None:
        """Decode further output frames, and count those without a unit."""
        self._state = self._transcriber.decoder.advance(self._state, log_probs)
        self._read += len(log_probs)
        units = np.flatnonzero(log_probs.argmax(axis=1) > SEPARATOR)
        if len(units):
            self._spoken = True
            self._quiet = len(log_probs) - 1 - int(units[-1])
        else:
            self._quiet += len(log_probs)

    def _events(self) -> list[Partial | Final]:
        """What to say after a chunk: that the utterance ended, what it is so far, or nothing."""
        chunk = self._chunk // self._info.stride
        length, quiet, next_length = (
            count * self._transcriber.frame_seconds for count in (self._read, self._quiet, self._read + chunk)
        )
        if self._spoken:
            if quiet >= self.endpoint.silence_needed(length) or next_length > self.endpoint.longest:
                events = self._final()
                self._restart(self._read)
                return events
        elif length >= min(self.endpoint.idle, self.endpoint.longest):
            self._restart(max(1, self._read - self._kept))
            return []
        if self._quiet:  # a partial cannot have changed
            return []
        text = self._transcriber.decoder.best(self._state).text
        if not text or text == self._shown:
            return []
        self._shown = text
        return [Partial(text, self._seconds(0))]

    def _final(self) -> list[Partial | Final]:
        """The utterance as far as it was decoded."""
        hypothesis = self._transcriber.decoder.finish(self._state)[0]
        words = self._transcriber.timed(hypothesis, self._seconds(0))
        return [Final(hypothesis.text, self._seconds(0), self._seconds(self._read), words)] if words else []

    def _restart(self, output_frame: int) -> None:
        """Begin the next utterance at an output frame of this one.

        The network has heard more than it has spoken of, by its lookahead: those frames are the next utterance's, so
        that a word that begins in them is neither lost nor heard twice.
        """
        consumed = output_frame * self._info.stride
        rest = np.concatenate([*self._heard, self._pending])[consumed:]
        self._offset += consumed
        self._begin()
        self._pending = rest

    def _seconds(self, output_frame: int) -> float:
        """Time in the stream of an output frame of this utterance."""
        start = self._offset / self._info.front_end.frames_per_second
        return round(start + output_frame * self._transcriber.frame_seconds, 3)
