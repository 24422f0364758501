"""Audio as it comes, text as it is said: partial results that grow, a final one at each pause."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .audio import convert_samples
from .decoding import LogProbs
from .endpointing import EndpointConfig, EnergyGate, GateConfig
from .features import Floats, RunningNormaliser, StreamingLogMel
from .grammar import SlotValue
from .recogniser import Transcriber, Word
from .units import SEPARATOR

__all__ = ["EndpointConfig", "Final", "GateConfig", "Partial", "StreamingTranscriber"]


@dataclass(frozen=True, slots=True)
class Partial:
    """What was said so far in an utterance that goes on; later results may change it. ``start`` in seconds.

    The first ``stable`` words of ``text`` do not change any more.
    """

    text: str
    start: float
    stable: int = 0


@dataclass(frozen=True, slots=True)
class Final:
    """A whole utterance; times in seconds from the beginning of the stream.

    ``reason``: what ended it, ``pause``, ``longest`` or ``end``. ``heard``: how far the stream was when it was ended.
    ``score`` and ``slots``: of a phrase, where only phrases can be said; None elsewhere.
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...]
    reason: str = "end"
    heard: float = 0.0
    score: float | None = None
    slots: dict[str, SlotValue] | None = None

    @property
    def confidence(self) -> float:
        """The mean of its words' confidences, 0..1."""
        return sum(word.confidence for word in self.words) / len(self.words)


class StreamingTranscriber:
    """Takes 16 kHz audio in pieces of any size and gives events; shares the model of a `Transcriber`.

    The events do not depend on the sizes of the pieces, but for which partials are seen on the way. Raises
    `PackageError` when the model has no streaming form.

    With a ``gate`` the network sleeps while nothing is louder than the noise, and an utterance ends sooner: silence
    that the network has heard but, for its lookahead, not yet judged counts too where the gate hears nothing either.
    """

    def __init__(
        self, transcriber: Transcriber, endpoint: EndpointConfig | None = None, gate: GateConfig | None = None
    ) -> None:
        self._transcriber, self._info = transcriber, transcriber.info
        self.endpoint = endpoint or EndpointConfig()
        front_end = self._info.front_end
        self._gate = EnergyGate(gate, front_end) if gate is not None else None
        self._front_end = StreamingLogMel(self._info.front_end)
        self._normaliser = RunningNormaliser(self._info.statistics, self._info.normalization)
        self._chunk = self._info.stream.chunk_frames if self._info.stream else self._info.stride
        self._kept = round(self.endpoint.kept / transcriber.frame_seconds)
        self._pre_roll = math.ceil((gate.pre_roll if gate else 0.0) * front_end.frames_per_second / self._chunk)
        self._pending = np.empty((0, front_end.n_mels), dtype=np.float32)
        self._offset = 0  # log-mel frames before the utterance
        self._judged = 0  # log-mel frames that the gate was given
        self._begin()

    def _begin(self) -> None:
        """A new utterance, with nothing remembered of the one before."""
        self._normaliser.reset()
        self._stream = self._transcriber.acoustic.stream()
        self._state = self._transcriber.decoder.start()
        self._heard: list[Floats] = []  # log-mel frames of this utterance that the network was given
        self._given = 0  # how many these are
        self._read = 0  # output frames that the decoder was given
        self._quiet = 0  # of these, those since the last unit
        self._spoken = False
        self._shown = ""
        self._asleep = self._gate is not None and not self._gate.open
        self._early: list[Floats] = []  # chunks that came while asleep

    def accept_audio(self, samples: npt.ArrayLike) -> list[Partial | Final]:
        """Take the next samples at 16 kHz; returns what they brought, nothing as often as not.

        They are ``[n]`` or ``[n, channels]``, floats in -1..1 or integers; raises `AudioError` for anything else, and
        for samples that are not finite.
        """
        frames = self._front_end.accept(convert_samples(samples, self._info.front_end.sample_rate))
        self._pending = np.concatenate([self._pending, frames]) if len(self._pending) else frames
        events: list[Partial | Final] = []
        while len(self._pending) >= self._chunk:
            chunk, self._pending = self._pending[: self._chunk], self._pending[self._chunk :]
            if self._wakes(chunk):
                events += self._events()
        return events

    @property
    def speaking(self) -> bool:
        """Whether an utterance has begun: a unit was heard."""
        return self._spoken

    @property
    def asleep(self) -> bool:
        """Whether the gate is closed and the network not run."""
        return self._asleep

    @property
    def utterance_start(self) -> float:
        """Where the present utterance's audio begins, in seconds."""
        return self._seconds(0)

    def finish(self) -> list[Partial | Final]:
        """End of the audio: the last final, if anything was said. The next audio begins a new stream."""
        events: list[Partial | Final] = []
        if not self._asleep:
            self._listen(self._pending)
            self._decode(self._stream.finish()[self._transcriber.head])
            events = self._final("end")
        self._pending = self._pending[:0]
        self._front_end.reset()
        self._offset = self._judged = 0
        self._begin()
        return events

    def _wakes(self, chunk: Floats) -> bool:
        """Give the network a chunk, unless the gate says that it may sleep on; returns whether it was given."""
        start = self._offset + self._given + sum(map(len, self._early))
        if self._gate is not None:  # what went back to be heard again in another utterance was judged before
            self._gate.accept(chunk[max(0, self._judged - start) :], self._spoken)
            self._judged = max(self._judged, start + len(chunk))
            if self._asleep and not self._gate.open:
                self._early.append(chunk)
                if len(self._early) > self._pre_roll:
                    self._offset += len(self._early.pop(0))
                return False
            self._asleep = False
        self._listen(np.concatenate([*self._early, chunk]) if self._early else chunk)
        self._early.clear()
        return True

    def _listen(self, frames: Floats) -> None:
        """Give further log-mel frames to the network, and what it makes of them to the decoder."""
        self._heard.append(frames)
        self._given += len(frames)
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
        length, next_length = (count * self._transcriber.frame_seconds for count in (self._read, self._read + chunk))
        if self._spoken:
            paused = self._silence() >= self.endpoint.silence_needed(length)
            if paused or next_length > self.endpoint.longest:
                events = self._final("pause" if paused else "longest")
                self._restart(self._read)
                return events
        elif self._gate is not None and not self._gate.open:
            self._restart(max(0, self._read - self._kept))
            return []
        elif length >= min(self.endpoint.idle, self.endpoint.longest):
            self._restart(max(1, self._read - self._kept))
            return []
        if self._quiet:  # a partial cannot have changed
            return []
        decoder = self._transcriber.decoder
        text = decoder.best(self._state).text
        if not text or text == self._shown:
            return []
        self._shown = text
        return [Partial(text, self._seconds(0), decoder.stable_words(self._state))]

    def _silence(self) -> float:
        """Seconds without a unit at the end of what was heard, as far as it is known."""
        silence = self._quiet * self._transcriber.frame_seconds
        if self._gate is not None:
            frames = self._given - self._read * self._info.stride
            ahead = frames / self._info.front_end.frames_per_second
            if self._gate.quiet >= ahead:
                silence += ahead
        return silence + 1e-9

    def _final(self, reason: str) -> list[Partial | Final]:
        """The utterance as far as it was decoded."""
        hypothesis = self._transcriber.decoder.finish(self._state)[0]
        words = self._transcriber.timed(hypothesis, self._seconds(0))
        if not words:
            return []
        start, end = self._seconds(0), self._seconds(self._read)
        heard = round((self._offset + self._given) / self._info.front_end.frames_per_second, 3)
        if hypothesis.phrases:
            segments = self._transcriber.phrase_segments(hypothesis, start)
            return [Final(s.text, start, end, s.words, reason, heard, s.score, s.slots) for s in segments]
        return [Final(hypothesis.text, start, end, words, reason, heard)]

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
