"""From audio to text: front end → acoustic model → decoder → words with times.

`Transcriber` does files and arrays of any length in bounded memory; get one from `edge_stt.load_model`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .audio import convert_samples, stream_audio
from .byte_streams import ByteStream
from .decoders import DecodingConfig, build_decoder, choose
from .decoding import Hypothesis
from .errors import AudioError, DecodingError, PackageError
from .features import Floats, StreamingLogMel, normalise_utterance
from .grammar import Grammar, SlotValue
from .hotwords import HotWords
from .interpreter import AcousticModel
from .package import ModelPackage
from .segments import SegmentConfig, cut_at_silences

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"
Source: TypeAlias = str | os.PathLike[str] | ByteStream  # of sound: a file's path, or what its bytes are read from


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times in seconds and a confidence in 0..1."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One utterance: words between two pauses; ``start`` of the first and ``end`` of the last, in seconds.

    Of a phrase, where only phrases can be said: the ``score`` in 0..1 that it was said, and what stands in its
    ``slots``; None elsewhere.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...]
    score: float | None = None
    slots: dict[str, SlotValue] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Transcript:
    """The result for one recording; ``duration`` in seconds."""

    text: str
    segments: tuple[Segment, ...]
    duration: float

    @classmethod
    def of(cls, segments: Iterable[Segment], duration: float) -> Transcript:
        """From its utterances."""
        segments = tuple(segments)
        return cls(" ".join(segment.text for segment in segments), segments, duration)

    @property
    def words(self) -> tuple[Word, ...]:
        """All words in order."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "segments": [segment.to_dict() for segment in self.segments]}


class Transcriber:
    """A loaded model. Safe to use from one thread; load another for more."""

    def __init__(
        self,
        package: ModelPackage,
        num_threads: int = 1,
        runtime: str | None = None,
        decoding: DecodingConfig | None = None,
        hot_words: HotWords | None = None,
        segments: SegmentConfig | None = None,
        phrases: Grammar | None = None,
    ) -> None:
        if not isinstance(hot_words, HotWords | None):
            raise DecodingError(f"hot_words are HotWords([('kitchen light', 5.0)]) or None, not {hot_words!r}")
        if not isinstance(phrases, Grammar | None):
            raise DecodingError(f"phrases are a Grammar, the path of its file or None, not {phrases!r}")
        self.package, self.info = package, package.info
        self.decoding = decoding or choose(package)
        self.head = self.decoding.head
        self.decoder = build_decoder(package, self.decoding, hot_words, phrases)
        self.acoustic = AcousticModel(package, num_threads, runtime)
        self.segments = segments or SegmentConfig()
        self.frame_seconds = self.info.stride / self.info.front_end.frames_per_second

    def transcribe(self, source: Source | npt.ArrayLike, sample_rate: int = 16_000) -> Transcript:
        """Transcribe a file: its path, or itself, open to be read in bytes; or samples at ``sample_rate``.

        Samples are ``[n]`` or ``[n, channels]``, float in -1..1 or int16 or int32. Raises `AudioError` when the source
        is none of these, or cannot be read as audio.
        """
        if isinstance(source, str | os.PathLike) or hasattr(source, "read"):
            return self.transcribe_blocks(stream_audio(cast(Source, source)))
        if not hasattr(source, "__len__"):  # None, an iterator: numpy would speak of their dimensions
            raise AudioError(f"{type(source).__name__} is no sound; give a path, an open file, or samples in an array")
        return self.transcribe_blocks([convert_samples(source, sample_rate)])

    def transcribe_blocks(self, blocks: Iterable[Floats]) -> Transcript:
        """Transcribe 16 kHz mono samples that come in blocks (float32 ``[n]`` each), in bounded memory.

        Raises `AudioError` for what is no such block.
        """
        samples = 0

        def counted() -> Iterator[Floats]:
            nonlocal samples
            for block in _checked(blocks):
                samples += len(block)
                yield block

        segments = tuple(self._heard(counted()))
        return Transcript.of(segments, samples / self.info.front_end.sample_rate)

    def utterances(self, blocks: Iterable[Floats]) -> Iterator[Segment]:
        """The utterances of `transcribe_blocks`, each as soon as it is certain."""
        return self._heard(_checked(blocks))

    def _heard(self, blocks: Iterable[Floats]) -> Iterator[Segment]:
        front_end = StreamingLogMel(self.info.front_end)
        offset = 0
        frames = map(front_end.accept, blocks)
        for stretch in cut_at_silences(frames, self.info.front_end, self.segments):
            yield from self._utterances(stretch, offset)
            offset += len(stretch)

    def log_probs(self, log_mel: Floats) -> Floats:
        """Log-probabilities of the decoding head for raw log-mel frames, float32 ``[frames / stride, units]``."""
        normalised = normalise_utterance(log_mel, self.info.statistics, self.info.normalization)
        return self.acoustic.offline(normalised)[self.head]

    def _utterances(self, stretch: Floats, offset: int) -> Iterator[Segment]:
        """The words of log-mel frames that begin ``offset`` frames into the recording, divided at pauses."""
        start = offset / self.info.front_end.frames_per_second
        hypothesis = self.decode(self.log_probs(stretch))
        if hypothesis.phrases:
            yield from self.phrase_segments(hypothesis, start)
            return
        words = self.timed(hypothesis, start)
        pauses = [
            index
            for index in range(1, len(words))
            if words[index].start - words[index - 1].end > self.segments.utterance_pause
        ]
        for first, last in pairwise([0, *pauses, len(words)]):
            if first < last:
                text = " ".join(word.text for word in words[first:last])
                yield Segment(words[first].start, words[last - 1].end, text, words[first:last])

    def timed(self, hypothesis: Hypothesis, start: float) -> tuple[Word, ...]:
        """A hypothesis' words with their times in seconds, its first output frame being at ``start``."""
        return tuple(
            Word(
                word.text,
                round(start + word.start * self.frame_seconds, 3),
                round(start + word.end * self.frame_seconds, 3),
                round(word.confidence, 4),
            )
            for word in hypothesis.words
        )

    def phrase_segments(self, hypothesis: Hypothesis, start: float) -> Iterator[Segment]:
        """The accepted phrases of a hypothesis, its first output frame being at ``start`` seconds."""
        words = self.timed(hypothesis, start)
        for phrase in hypothesis.phrases:
            if phrase.accepted:
                count = len(phrase.text.split())
                own, words = words[:count], words[count:]
                yield Segment(own[0].start, own[-1].end, phrase.text, own, round(phrase.score, 4), phrase.slots)

    def decode(self, log_probs: Floats) -> Hypothesis:
        """Best reading of the decoding head's log-probabilities, float32 ``[frames, units]``."""
        return self.decoder.finish(self.decoder.advance(self.decoder.start(), log_probs))[0]


def _checked(blocks: Iterable[Any]) -> Iterator[Floats]:
    """Blocks of sound as they come; raises `AudioError` for anything else, which numpy would say in its own words."""
    if not isinstance(blocks, Iterable):
        raise AudioError(f"{type(blocks).__name__} is no sound in blocks; give several arrays, float32 [n] each")
    for block in blocks:
        is_array = isinstance(block, np.ndarray)
        if not is_array or block.ndim != 1 or block.dtype.kind != "f":
            found = f"{block.dtype} {list(block.shape)}" if is_array else type(block).__name__
            raise AudioError(f"a block of sound is float32 [n], mono at 16 kHz, not {found}; transcribe takes more")
        yield block


def default_model() -> Path:
    """The installed package that is active, or else the one that comes with edge-stt; raises `PackageError`."""
    from .model_store import active_model

    if (active := active_model()) is not None:
        return active
    if not DEFAULT_MODEL.is_dir():
        raise PackageError("this installation carries no default model: give one with --model or load_model(path)")
    return DEFAULT_MODEL


def load_model(
    path: str | Path | None = None,
    num_threads: int = 1,
    runtime: str | None = None,
    decoder: str | None = None,
    beam_width: int | None = None,
    hot_words: HotWords | None = None,
    phrases: str | Path | Grammar | None = None,
) -> Transcriber:
    """Load a model package (a folder or a zip), or that of `default_model`.

    ``decoder`` is ``greedy``, ``beam`` or ``lexicon``; without it, the package's own choice. With ``phrases``, a
    `Grammar` or its file, nothing but its phrases can come out. Raises `PackageError` when the package is refused,
    `DecodingError` when it cannot be decoded so, `RuntimeMissingError` without a runtime.
    """
    package = ModelPackage.load(path or default_model())
    grammar = Grammar.from_file(Path(phrases)) if isinstance(phrases, str | Path) else phrases
    if grammar is not None and (decoder or beam_width) is not None:
        raise DecodingError("phrases have a decoder of their own: leave out the decoder and the beam width")
    config = choose(package, decoder if grammar is None else "phrases", beam_width)
    return Transcriber(package, num_threads, runtime, config, hot_words, phrases=grammar)
