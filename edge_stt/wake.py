"""A wake phrase: nothing is written until it was said, and then what follows it, once.

Until then only the phrase is looked for, by the decoder for phrases, at the beginning of what is said: each time
the network was run, the phrase is compared with free units, so it need not be followed by a pause. It is heard
where it scores above a threshold; after its last unit the command begins.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .audio import SAMPLE_RATE
from .decoders import build_decoder, choose
from .endpointing import EndpointConfig, GateConfig
from .features import Floats
from .grammar import Grammar
from .phrases import PhraseDecoder
from .recogniser import Transcriber
from .streaming import Final, Partial, StreamingTranscriber
from .wake_config import WakeConfig

ENDPOINT = EndpointConfig(trailing_silence=0.4, longest=10.0)  # between things said, of which one may be the phrase
KEPT_SECONDS = 5.0  # of the newest audio, in which the phrase is
BEFORE_SECONDS = 0.3  # of the audio before the phrase that is recognised too


@dataclass(frozen=True, slots=True)
class Woken:
    """The phrase was said; ``start`` and ``end`` in seconds from the beginning of the stream, ``score`` 0..1."""

    text: str
    start: float
    end: float
    score: float


def for_phrases(transcriber: Transcriber, phrases: Grammar) -> Transcriber:
    """A transcriber with the same network that understands phrases alone.

    Raises `DecodingError` for words that the model cannot hear.
    """
    listener = copy.copy(transcriber)
    listener.decoding = choose(transcriber.package, "phrases")
    listener.head = listener.decoding.head
    listener.decoder = build_decoder(transcriber.package, listener.decoding, None, phrases)
    return listener


class Spotter(StreamingTranscriber):
    """Looks for the phrase. ``best`` is what came nearest to it in the present utterance, ``past`` in those before."""

    def __init__(self, listener: Transcriber, gate: GateConfig | None = None) -> None:
        """``listener`` is one that `for_phrases` made."""
        self.best: Woken | None = None
        self.past: list[Woken] = []
        super().__init__(listener, ENDPOINT, gate)

    def _begin(self) -> None:
        if self.best is not None:
            self.past.append(self.best)
        self.best = None
        super()._begin()

    def _decode(self, log_probs: Floats) -> None:
        super()._decode(log_probs)
        decoder = self._transcriber.decoder
        assert isinstance(decoder, PhraseDecoder)
        match = decoder.match(self._state) if self._spoken else None
        if match is None:
            return
        score = decoder.score(match)
        if self.best is None or score > self.best.score:
            tokens = match.path.tokens
            first = self._state.first
            start, end = self._seconds(first + tokens[0].start), self._seconds(first + tokens[-1].end)
            self.best = Woken(match.text, start, end, round(score, 4))


class WakefulStream:
    """As a `StreamingTranscriber`, but silent until woken: `Woken`, and then the results of one utterance.

    The command's recogniser hears the phrase too, for what was said in the same breath is understood only with what
    came before; its words are taken off again, by their times, and from partial results by their number.
    """

    def __init__(
        self, transcriber: Transcriber, config: WakeConfig, endpoint: EndpointConfig, gate: GateConfig | None
    ) -> None:
        """Raises `EdgeSttError` for a phrase that is none or cannot be heard."""
        self._transcriber, self._config, self._endpoint, self._gate = transcriber, config, endpoint, gate
        self._listener = for_phrases(transcriber, config.grammar())
        self._recent: deque[Floats] = deque()
        self._clock = 0  # samples
        self._sleep()

    def _sleep(self) -> None:
        """Look for the phrase, from here on."""
        self._command: StreamingTranscriber | None = None
        self._woken: Woken | None = None
        self._begun = False  # in the phrase's breath, a command
        self._base = self._clock / SAMPLE_RATE  # where the stream at work began
        self._recent.clear()
        self._spotter = Spotter(self._listener, self._gate)

    @property
    def _in_same_breath(self) -> bool:
        """Whether the command's recogniser is still in the utterance that the phrase is part of."""
        return (
            self._command is not None
            and self._woken is not None
            and self._base + self._command.utterance_start < self._woken.end
        )

    @property
    def speaking(self) -> bool:
        """Whether a command has begun."""
        if self._command is None or not self._command.speaking:
            return False
        return self._begun or not self._in_same_breath

    @property
    def asleep(self) -> bool:
        """Whether the network is not run."""
        return (self._command or self._spotter).asleep

    @property
    def utterance_start(self) -> float:
        """Where the command's audio begins, in seconds."""
        if self._in_same_breath and self._woken is not None:
            return self._woken.end
        return self._base + (self._command or self._spotter).utterance_start

    def accept_audio(self, samples: Floats) -> list[Partial | Final | Woken]:
        """Take further samples, float32 ``[n]`` at 16 kHz; returns what they brought."""
        self._clock += len(samples)
        if self._command is not None:
            return self._follow(self._command, samples)
        self._recent.append(samples)
        while sum(map(len, self._recent)) - len(self._recent[0]) > KEPT_SECONDS * SAMPLE_RATE:
            self._recent.popleft()
        self._spotter.accept_audio(samples)
        found = self._spotter.best or (self._spotter.past[-1] if self._spotter.past else None)
        self._spotter.past.clear()
        if found is None or found.score < self._config.threshold:
            return []
        woken = replace(found, start=round(self._base + found.start, 3), end=round(self._base + found.end, 3))
        return [woken, *self._wake(woken)]

    def _wake(self, woken: Woken) -> list[Partial | Final | Woken]:
        """Recognise, from a little before the phrase on."""
        begin = round((woken.start - BEFORE_SECONDS) * SAMPLE_RATE)
        audio = np.concatenate(self._recent)[-max(1, self._clock - begin) :]
        self._base = (self._clock - len(audio)) / SAMPLE_RATE
        self._woken = woken
        self._command = StreamingTranscriber(self._transcriber, self._endpoint, self._gate)
        return self._follow(self._command, audio)

    def _follow(self, command: StreamingTranscriber, samples: Floats) -> list[Partial | Final | Woken]:
        """A command's results; after it, or when none comes, the phrase is to be said anew."""
        assert self._woken is not None
        results = self._own(command.accept_audio(samples))
        ended = any(isinstance(result, Final) for result in results)
        late = self._clock / SAMPLE_RATE > self._woken.end + self._config.timeout
        if ended or (late and not self.speaking):
            self._sleep()
        return results

    def _own(self, events: Sequence[Partial | Final]) -> list[Partial | Final | Woken]:
        """What is the command's of the recogniser's results, at this stream's times."""
        results: list[Partial | Final | Woken] = []
        assert self._woken is not None
        end = self._woken.end
        for event in events:
            start = self._base + event.start
            if isinstance(event, Partial):
                skip = len(self._woken.text.split()) if start < end else 0
                text = " ".join(event.text.split()[skip:])
                if text:
                    self._begun = True
                    results.append(Partial(text, max(start, end), max(0, event.stable - skip)))
                continue
            words = tuple(replace(w, start=w.start + self._base, end=w.end + self._base) for w in event.words)
            own = tuple(word for word in words if (word.start + word.end) / 2 > end)
            if own:
                text = event.text if len(own) == len(words) else " ".join(word.text for word in own)
                heard, last = self._base + event.heard, self._base + event.end
                results.append(replace(event, text=text, start=max(start, end), end=last, words=own, heard=heard))
        return results

    def finish(self) -> list[Partial | Final | Woken]:
        """End of the audio; the next begins a new stream."""
        results = self._own(self._command.finish()) if self._command is not None else []
        self._clock = 0
        self._sleep()
        return results
