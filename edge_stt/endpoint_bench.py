"""How well the end of speech is found: clips padded with noise, and for each preset delay and utterances cut off.

The end of speech is that of the clean clip (`edge_stt.bench_worker.speech_bounds`), so it does not depend on any model
nor on the noise. An utterance is cut off when a pause within it was taken for its end. Noise alone shows what is made
up, and the speech's words in utterances below the same confidence what it costs to leave that out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .audio import SAMPLE_RATE
from .bench_worker import speech_bounds
from .endpointing import EndpointConfig, GateConfig
from .features import Floats
from .recogniser import Transcriber
from .streaming import Final, StreamingTranscriber

FRAME = SAMPLE_RATE // 50
BEFORE, AFTER = 3.0, 4.0  # seconds of noise around a clip
LEVEL_DB = -26.0  # of the noise's RMS where it stands alone, below full scale


def speech_end(samples: Floats) -> int:
    """The sample at which the speech of a clean clip ends."""
    return round(speech_bounds(samples)[1] * SAMPLE_RATE)


def mix(speech: Floats, noise: Floats, snr_db: float, rng: np.random.Generator) -> Floats:
    """Speech with noise under it and around it; the signal-to-noise ratio is that within the speech's loud half."""
    before, after = round(BEFORE * SAMPLE_RATE), round(AFTER * SAMPLE_RATE)
    mixed = _stretch(noise, before + len(speech) + after, rng)
    frames = (speech[: len(speech) - len(speech) % FRAME].reshape(-1, FRAME).astype(np.float64) ** 2).mean(axis=1)
    loud = float(frames[frames >= np.median(frames)].mean())
    mixed *= np.float32(np.sqrt(loud / max(1e-12, float((mixed**2).mean()))) * 10.0 ** (-snr_db / 20.0))
    mixed[before : before + len(speech)] += speech
    return np.clip(mixed, -1.0, 1.0)


def _stretch(noise: Floats, length: int, rng: np.random.Generator) -> Floats:
    """``length`` samples of a noise, from anywhere in it, over and over if it is short."""
    start = int(rng.integers(len(noise)))
    return np.resize(np.roll(noise, -start), length).astype(np.float32)


@dataclass
class EndpointScore:
    """What one preset did. ``delays``: seconds of audio between the end of speech and the end being seen.

    ``doubtful`` of the ``words`` that were written are in utterances that are left out for their low confidence.
    """

    clips: int = 0
    cut_off: int = 0
    missed: int = 0
    words: int = 0
    doubtful: int = 0
    delays: list[float] = field(default_factory=list)

    def delay(self, percentile: float) -> float:
        """Seconds."""
        return float(np.percentile(self.delays, percentile)) if self.delays else float("nan")


def listen(transcriber: Transcriber, endpoint: EndpointConfig, audio: Floats) -> list[Final]:
    """The finals of one stream, as the daemon would give them."""
    stream = StreamingTranscriber(transcriber, endpoint, GateConfig())
    step = SAMPLE_RATE // 10
    found = [e for start in range(0, len(audio), step) for e in stream.accept_audio(audio[start : start + step])]
    return [event for event in found + stream.finish() if isinstance(event, Final)]


def score(
    transcriber: Transcriber,
    endpoint: EndpointConfig,
    clips: Sequence[Floats],
    noises: Sequence[Floats],
    snr_db: float,
    min_confidence: float = 0.0,
    advance: Callable[[], None] = lambda: None,
) -> EndpointScore:
    """Measure one preset on clean clips, each with another of the noises; the ratio is in dB."""
    rng = np.random.default_rng(0)
    result = EndpointScore()
    for index, clip in enumerate(clips):
        audio = mix(clip, noises[index % len(noises)], snr_db, rng)
        end = BEFORE + speech_end(clip) / SAMPLE_RATE
        finals = listen(transcriber, endpoint, audio)
        result.clips += 1
        speech = [f for f in finals if f.words[-1].end > BEFORE and f.words[0].start < end]
        result.words += sum(len(f.words) for f in speech)
        result.doubtful += sum(len(f.words) for f in speech if f.confidence < min_confidence)
        result.cut_off += any(f.reason == "pause" and f.heard < end for f in speech)
        ends = [f.heard for f in finals if f.heard >= end and f.reason != "end"]
        if ends:
            result.delays.append(min(ends) - end)
        else:
            result.missed += 1
        advance()
    return result


@dataclass
class NoiseScore:
    """What was made up from noise alone, and how many utterances were ``rejected`` for their low confidence."""

    seconds: float = 0.0
    words: int = 0
    utterances: int = 0
    rejected: int = 0

    def per_minute(self, count: int) -> float:
        """So many in a minute of noise."""
        return count / self.seconds * 60.0 if self.seconds else float("nan")


def score_noise(
    transcriber: Transcriber,
    endpoint: EndpointConfig,
    noises: Sequence[Floats],
    min_confidence: float = 0.0,
    advance: Callable[[], None] = lambda: None,
) -> NoiseScore:
    """Listen to noises, each brought to the same level, with nobody speaking."""
    result = NoiseScore()
    for noise in noises:
        level = np.sqrt(max(1e-12, float((noise.astype(np.float64) ** 2).mean())))
        audio = np.clip(noise * np.float32(10.0 ** (LEVEL_DB / 20.0) / level), -1.0, 1.0)
        result.seconds += len(noise) / SAMPLE_RATE
        for final in listen(transcriber, endpoint, audio):
            if final.confidence >= min_confidence:
                result.words += len(final.words)
                result.utterances += 1
            else:
                result.rejected += 1
        advance()
    return result
