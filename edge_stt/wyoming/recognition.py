"""From the samples of a Wyoming client to text. Everything here runs in one thread, that of the recogniser."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..audio import MAX_CHANNELS, MAX_RATE, MIN_RATE, SAMPLE_RATE
from ..decoders import build_decoder
from ..endpointing import PRESETS
from ..errors import DecodingError, RuntimeMissingError
from ..features import Floats
from ..hotwords import HotWords
from ..recogniser import Transcriber
from ..streaming import Final, Partial, StreamingTranscriber
from ..text import Normaliser
from .config import ServeConfig, WyomingConfig
from .protocol import ProtocolError

logger = logging.getLogger(__name__)

# Names of languages as `edge_stt.language` has them, to ISO 639-1; a file's own name may be such a code too.
LANGUAGE_CODES = {"english": "en", "german": "de", "french": "fr", "spanish": "es", "italian": "it", "dutch": "nl"}
MAX_PHRASES, MAX_LETTERS = 2_000, 60  # of a request's names and terms, and of one of them


@dataclass(frozen=True)
class PcmFormat:
    """Format of raw samples: Hz, bytes of a sample (1: unsigned; 2, 3, 4: signed, little-endian), channels."""

    rate: int = SAMPLE_RATE
    width: int = 2
    channels: int = 1

    @classmethod
    def of(cls, data: dict[str, Any]) -> PcmFormat:
        """From a message's data; raises `ProtocolError` for what is none."""
        values = [data.get("rate"), data.get("width"), data.get("channels")]
        limits = ((MIN_RATE, MAX_RATE), (1, 4), (1, MAX_CHANNELS))
        for name, value, (low, high) in zip(("rate", "width", "channels"), values, limits, strict=True):
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ProtocolError(f"audio with a {name} of {value!r:.20}; {low} to {high} can be")
        return cls(*values)  # type: ignore[arg-type]

    @property
    def bytes_per_second(self) -> int:
        """Of audio in this format."""
        return self.rate * self.width * self.channels


class PcmDecoder:
    """Samples in pieces of any number of bytes to float32 ``[n]``, mono, 16 kHz."""

    def __init__(self, pcm: PcmFormat) -> None:
        """Raises `RuntimeMissingError` when another rate than 16 kHz cannot be resampled."""
        self.pcm = pcm
        self._rest = b""
        self._resampler: Any = None
        if pcm.rate != SAMPLE_RATE:
            try:
                import soxr
            except ImportError as error:
                raise RuntimeMissingError(f"audio at {pcm.rate} Hz needs soxr: pip install soxr") from error
            self._resampler = soxr.ResampleStream(pcm.rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def accept(self, data: bytes) -> Floats:
        """The samples that a piece completes."""
        data = self._rest + data
        frame = self.pcm.width * self.pcm.channels
        whole = len(data) - len(data) % frame
        self._rest = data[whole:]
        samples = _integers(data[:whole], self.pcm.width).reshape(-1, self.pcm.channels)
        mono = samples.mean(axis=1, dtype=np.float32) if self.pcm.channels > 1 else samples[:, 0]
        return self._resampled(mono, last=False)

    def finish(self) -> Floats:
        """What the resampler still holds."""
        return self._resampled(np.empty(0, np.float32), last=True)

    def _resampled(self, mono: Floats, last: bool) -> Floats:
        return mono if self._resampler is None else self._resampler.resample_chunk(mono, last=last)


def _integers(data: bytes, width: int) -> Floats:
    """Samples as float32, full scale as 1."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128.0) / 128.0
    if width == 3:  # as 32 bits whose lowest eight are zero
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, width = wide.tobytes(), 4
    scale = np.float32(1.0 / (1 << (8 * width - 1)))
    return np.frombuffer(data, f"<i{width}").astype(np.float32) * scale


class Recognition:
    """One request: audio in, text out as it becomes certain; ``text`` is all of it."""

    def __init__(self, transcriber: Transcriber, config: ServeConfig) -> None:
        self._transcriber, self._config = transcriber, config
        self._stream: StreamingTranscriber | None = None
        if config.wyoming.streaming and transcriber.info.stream is not None:
            # The client says when it ends: a pause within it divides nothing that can stay whole.
            self._stream = StreamingTranscriber(transcriber, PRESETS["relaxed"])
        self._heard: list[Floats] = []
        self._decoder: PcmDecoder | None = None
        self._finals: list[str] = []
        self._shown = 0  # words of the present utterance that were given out
        self.seconds = 0.0

    @property
    def text(self) -> str:
        """What was said."""
        return " ".join(self._finals)

    def accept(self, data: bytes, pcm: PcmFormat) -> str:
        """Hear further audio; returns words that no later audio changes. Raises `ProtocolError` when it is too much."""
        samples = [np.empty(0, np.float32)]
        if self._decoder is None or self._decoder.pcm != pcm:
            if self._decoder is not None:
                samples.append(self._decoder.finish())
            self._decoder = PcmDecoder(pcm)
        samples.append(self._decoder.accept(data))
        return self._hear(np.concatenate(samples))

    def finish(self) -> Iterator[str]:
        """The audio has ended: the last words, in steps that give other clients their turn in between."""
        if self._decoder is not None:
            yield self._hear(self._decoder.finish())
        if self._stream is not None:
            yield self._words(self._stream.finish())
            return
        heard, self._heard = self._heard, []
        for segment in self._transcriber.utterances(heard):
            yield self._words([Final(segment.text, segment.start, segment.end, segment.words)])

    def _hear(self, samples: Floats) -> str:
        self.seconds += len(samples) / SAMPLE_RATE
        if self.seconds > self._config.wyoming.longest:
            raise ProtocolError(f"more than {self._config.wyoming.longest:g} s of audio in one request")
        if self._stream is None:
            self._heard.append(samples)
            return ""
        return self._words(self._stream.accept_audio(samples))

    def _words(self, events: Sequence[Partial | Final]) -> str:
        """Words that are new and certain."""
        least = self._config.recogniser.min_confidence
        words: list[str] = []
        for event in events:
            if isinstance(event, Final):
                if sum(word.confidence for word in event.words) >= least * len(event.words):
                    words += event.text.split()[self._shown :]
                    self._finals.append(event.text)
                self._shown = 0
            elif not least:  # a doubtful utterance must not be shown before it is known to be one
                words += event.text.split()[self._shown : event.stable]
                self._shown = max(self._shown, event.stable)
        return " ".join(words)


class Recogniser:
    """The loaded model, and decoders for what clients want to be favoured."""

    def __init__(self, config: ServeConfig) -> None:
        """Raises `EdgeSttError` for a model or decoder that is not there."""
        self.config = config
        self._options = config.recogniser.load_options()
        self.transcriber = self._options.load()
        language = str(self.transcriber.info.language.get("name", "english"))
        self.language = LANGUAGE_CODES.get(language, language)
        self._own: list[tuple[str, float]] = []
        if self._options.hotword_file:
            listed = HotWords.from_file(Path(self._options.hotword_file))
            self._own = [(" ".join(words), weight) for words, weight in listed.entries.items()]
        self._biased = self.transcriber
        self._favoured: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # names and terms of these

    def start(self, names: tuple[str, ...] = (), terms: tuple[str, ...] = ()) -> Recognition:
        """A new request, with names and terms made likelier where the decoder can do that."""
        transcriber = self.transcriber
        if (names or terms) and transcriber.decoding.decoder in ("beam", "lexicon"):
            transcriber = self._favouring(names, terms)
        return Recognition(transcriber, self.config)

    def _favouring(self, names: tuple[str, ...], terms: tuple[str, ...]) -> Transcriber:
        """The same model with a decoder for these hot words, beside the server's own; the last one is kept."""
        if self._favoured != (names, terms):
            self._biased, self._favoured = self.transcriber, (names, terms)
            gc.collect()  # the decoder before it is in circles, and holds files and megabytes
            self._biased = copy.copy(self.transcriber)
            phrases = favoured_phrases(names, terms, self.config.wyoming, self.transcriber.info.normaliser)
            try:
                if phrases:
                    hot_words = HotWords([*phrases.items(), *self._own])
                    self._biased.decoder = build_decoder(self._biased.package, self._biased.decoding, hot_words)
            except DecodingError as error:
                logger.warning("a client's names cannot be favoured: %s", error)
        return self._biased

    def info(self) -> dict[str, Any]:
        """What ``describe`` is answered with."""
        model = self.transcriber.info
        made = {"attribution": {"name": "edge-stt", "url": ""}, "installed": True}
        return {
            "asr": [
                {
                    "name": "edge-stt",
                    "description": "Offline speech-to-text",
                    "version": __version__,
                    **made,
                    "supports_transcript_streaming": self.config.wyoming.streaming and model.stream is not None,
                    "models": [
                        {
                            "name": model.name,
                            "description": f"{model.name} ({self.transcriber.decoding.decoder} decoder)",
                            "version": model.run,
                            "languages": [self.language],
                            **made,
                        }
                    ],
                }
            ]
        }


def favoured_phrases(
    names: Sequence[str], terms: Sequence[str], config: WyomingConfig, normaliser: Normaliser
) -> dict[str, float]:
    """Phrases as they are said, with their weights; what cannot be said, or is too much, is left out."""
    phrases: dict[str, float] = {}
    for texts, weight in ((names, config.names_weight), (terms, config.terms_weight)):
        for text in texts if weight else ():
            phrase = normaliser(text[: 2 * MAX_LETTERS])  # "Lamp 2" is *lamp two*
            if 0 < len(phrase) <= MAX_LETTERS and len(phrases) < MAX_PHRASES:
                phrases.setdefault(phrase, weight)
    return phrases
