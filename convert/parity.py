"""The parity gate: how far a converted file is from the float model it was made of, on real speech.

Every file is run as the device runs it (`edge_stt.interpreter`), beside the Keras model on the same normalised log-mel.
A package that loses more than `Limits` allow is refused by `convert.build`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.audio import read_audio
from edge_stt.decoders import Decoder, DecodingConfig, build_decoder
from edge_stt.decoding import LogProbs, greedy
from edge_stt.errors import AudioError, DataError, EdgeSttError
from edge_stt.features import Floats, log_mel, normalise_utterance
from edge_stt.interpreter import AcousticModel
from edge_stt.package import MODEL_FILE, ModelPackage
from edge_stt.scoring import ClipScore, Difference, Interval, compare, interval, require_jiwer, score_clip
from train.data import Clip, read_corpus

from .calibration import choose_clips
from .graph import TrainedModel

PARITY_FILE = "parity.json"
FLOOR = float(np.log(1e-7))  # |Δ log p| counts smaller probabilities as 1e-7: no decoder looks further down
Advance = Callable[[str], None]


class ParityError(EdgeSttError):
    """A converted model is too far from the float model; nothing was written."""


@dataclass(frozen=True)
class Limits:
    """What a file may lose. ``wer_points``, absolute percent by mode, are judged on at least ``min_words`` words.

    A loss whose 95 % interval has zero in it is let pass: on these clips, chance would explain it.

    ``stream_agreement``: share of frames in which streaming and offline have the same likeliest unit, in quantised
    modes, judged on ``min_frames``; ``stream_difference``: the largest |Δ log p| between the two in float32.
    """

    wer_points: Mapping[str, float] = field(
        default_factory=lambda: {"float32": 0.1, "float16": 0.1, "dynamic": 0.3, "int8": 1.0, "int16x8": 0.3}
    )
    min_words: int = 200
    min_frames: int = 1_000
    stream_agreement: float = 0.99
    stream_difference: float = 1e-4


@dataclass(frozen=True)
class GateConfig:
    """How much is measured: ``clips`` for error rates, the first of them for speed and for streaming.

    Speed is that of the network alone, the fastest of ``repeats`` runs of each clip, all files in turn.
    """

    clips: int = 60
    timed_clips: int = 4
    streamed_clips: int = 12
    repeats: int = 3
    threads: tuple[int, ...] = (1, 2)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class DevClip:
    """One clip: its normalised text, and its normalised log-mel, float32 ``[frames, n_mels]``, a multiple of 4."""

    id: str
    speaker: str
    reference: str
    log_mel: Floats
    seconds: float


@dataclass(frozen=True)
class HeadParity:
    """One head against the float model's: ``agreement`` is the share of frames with the same likeliest unit (0..1).

    Differences are of natural log-probabilities, those below `FLOOR` raised to it.
    """

    frames: int
    agreement: float
    max_difference: float
    mean_difference: float


@dataclass(frozen=True)
class Rates:
    """Error rates in percent with a decoder, of the file and of the float model; ``change`` is paired, in points."""

    wer: Interval
    cer: Interval
    float_wer: float
    float_cer: float
    change: Difference


@dataclass(frozen=True)
class Parity:
    """All that was measured of one file. ``rtf`` by number of threads; ``stream`` compares a file with itself."""

    mode: str
    clips: int
    seconds: float
    words: int
    model_bytes: int
    heads: dict[str, HeadParity]
    rates: dict[str, Rates]
    rtf: dict[str, float]
    stream: dict[str, HeadParity]
    problems: tuple[str, ...] = ()

    @property
    def agreement(self) -> float:
        """That of the worst head."""
        return min(head.agreement for head in self.heads.values())

    def to_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def dev_clips(manifest: Path, count: int, model: TrainedModel) -> list[DevClip]:
    """``count`` clips of a manifest, spread over speakers and lengths; raises `DataError` when none is usable."""
    return read_clips(choose_clips(list(read_corpus(manifest, lambda problem: None)), count), model, str(manifest))


def read_clips(clips: Sequence[Clip], model: TrainedModel, source: str) -> list[DevClip]:
    """Audio and texts of clips; those that are no audio or have no words are left out."""
    out = []
    for clip in clips:
        try:
            samples = read_audio(clip.path)
        except AudioError:
            continue
        frames = log_mel(samples, model.front_end)
        frames = frames[: len(frames) // model.network.stride * model.network.stride]
        text = model.normaliser(clip.text)
        if len(frames) and text:
            normalised = normalise_utterance(frames, model.statistics)
            out.append(
                DevClip(clip.id, clip.speaker, text, normalised, len(frames) / model.front_end.frames_per_second)
            )
    if not out:
        raise DataError(f"{source} has no usable clip to measure with")
    return out


class ParityGate:
    """Measures converted files against the float model on clips; the float model is run once, when this is made."""

    def __init__(
        self, model: TrainedModel, clips: Sequence[DevClip], config: GateConfig | None = None, lexicon: bool = False
    ) -> None:
        """With ``lexicon``, words are also searched for with the decoder that a measured package names."""
        require_jiwer()
        self.model, self.clips, self.config, self.lexicon = model, clips, config or GateConfig(), lexicon
        self.reference = [float_log_probs(model, clip.log_mel) for clip in clips]

    def measure(self, packages: Mapping[str, ModelPackage], advance: Advance = lambda what: None) -> list[Parity]:
        """One `Parity` a package, by mode; ``advance`` hears of each step done."""
        outputs: dict[str, list[dict[str, LogProbs]]] = {}
        streams: dict[str, dict[str, HeadParity]] = {}
        for mode, package in packages.items():
            acoustic = AcousticModel(package)
            outputs[mode] = []
            for clip in self.clips:
                outputs[mode].append(acoustic.offline(clip.log_mel))
                advance(mode)
            streams[mode] = self._streamed(acoustic, outputs[mode]) if package.info.stream else {}
        speeds = self.speeds(packages)
        return [self._parity(m, p, outputs[m], streams[m], speeds[m]) for m, p in packages.items()]

    def speeds(self, packages: Mapping[str, ModelPackage]) -> dict[str, dict[str, float]]:
        """Real-time factors by mode and threads: each clip through all files in turn, that all meet the same load."""
        config = self.config
        clips = self.clips[: config.timed_clips]
        runners = {(m, t): AcousticModel(p, t) for m, p in packages.items() for t in config.threads}
        best = {key: [float("inf")] * len(clips) for key in runners}
        for _ in range(config.repeats):
            for number, clip in enumerate(clips):
                for key, acoustic in runners.items():
                    start = time.perf_counter()
                    acoustic.offline(clip.log_mel)
                    best[key][number] = min(best[key][number], time.perf_counter() - start)
        seconds = sum(clip.seconds for clip in clips)
        return {m: {str(t): sum(best[m, t]) / seconds for t in config.threads} for m in packages}

    def _streamed(self, acoustic: AcousticModel, offline: Sequence[dict[str, LogProbs]]) -> dict[str, HeadParity]:
        count = self.config.streamed_clips
        streamed = []
        for clip in self.clips[:count]:
            stream = acoustic.stream()
            first, last = stream.accept(clip.log_mel), stream.finish()
            streamed.append({head: np.concatenate([first[head], last[head]]) for head in first})
        return compare_outputs(offline[:count], streamed)

    def _parity(
        self,
        mode: str,
        package: ModelPackage,
        outputs: Sequence[dict[str, LogProbs]],
        stream: dict[str, HeadParity],
        rtf: dict[str, float],
    ) -> Parity:
        rates = self._rates(package, outputs)
        parity = Parity(
            mode=mode,
            clips=len(self.clips),
            seconds=sum(clip.seconds for clip in self.clips),
            words=sum(len(clip.reference.split()) for clip in self.clips),
            model_bytes=len(package.read(MODEL_FILE)),
            heads=compare_outputs(self.reference, outputs),
            rates=rates,
            rtf=rtf,
            stream=stream,
        )
        return Parity(**{**vars(parity), "problems": tuple(problems(parity, self.config.limits))})

    def _rates(self, package: ModelPackage, outputs: Sequence[dict[str, LogProbs]]) -> dict[str, Rates]:
        info = package.info
        heads = [head for head, units in info.heads.items() if units.kind == "characters"]
        readers: dict[str, tuple[str, Callable[[LogProbs], str]]] = {}
        if heads:
            readers["greedy"] = heads[0], lambda log_probs: greedy(log_probs, info.heads[heads[0]]).text
        if self.lexicon:
            decoding = DecodingConfig.of(package)
            readers[decoding.decoder] = decoding.head, _reader(build_decoder(package, decoding))
        rates = {}
        for name, (head, read) in readers.items():
            ours, theirs = (
                [
                    score_clip(clip.id, clip.speaker, clip.reference, read(out[head]))
                    for clip, out in zip(self.clips, results, strict=True)
                ]
                for results in (outputs, self.reference)
            )
            rates[name] = _compare_rates(theirs, ours)
        return rates


def _reader(decoder: Decoder) -> Callable[[LogProbs], str]:
    return lambda log_probs: decoder.finish(decoder.advance(decoder.start(), log_probs))[0].text


def _compare_rates(theirs: list[ClipScore], ours: list[ClipScore]) -> Rates:
    wer, cer = interval(theirs), interval(theirs, "characters")
    return Rates(interval(ours), interval(ours, "characters"), wer.rate, cer.rate, compare(theirs, ours))


def float_log_probs(model: TrainedModel, frames: Floats) -> dict[str, LogProbs]:
    """The Keras model's log-probabilities: float32 ``[frames / stride, units]`` per head."""
    outputs = model.offline(frames[None], training=False)
    return {head: np.asarray(x)[0] for head, x in outputs.items()}


def compare_outputs(
    wanted: Sequence[Mapping[str, LogProbs]], outputs: Sequence[Mapping[str, LogProbs]]
) -> dict[str, HeadParity]:
    """Frame by frame, over all clips, for each head."""
    result = {}
    for head in wanted[0]:
        a, b = (np.concatenate([clip[head] for clip in clips]) for clips in (wanted, outputs))
        difference = np.abs(np.maximum(a, FLOOR) - np.maximum(b, FLOOR))
        if not np.isfinite(b).all():
            raise ParityError(f"the head {head} gives values that are not finite")
        agreement = float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
        result[head] = HeadParity(len(a), agreement, float(difference.max()), float(difference.mean()))
    return result


def problems(parity: Parity, limits: Limits) -> list[str]:
    """What is beyond the limits, one sentence each."""
    out = []
    allowed = limits.wer_points.get(parity.mode, 0.0)
    for decoder, rates in parity.rates.items():
        points, sure = rates.change.points, rates.change.significant and rates.change.low > 0
        if parity.words >= limits.min_words and points > allowed and sure:
            out.append(f"WER ({decoder}) {points:+.2f} points against the float model, {allowed:+.1f} allowed")
    for head, stream in parity.stream.items():
        if parity.mode == "float32" and stream.max_difference > limits.stream_difference:
            out.append(f"streaming {head} differs from offline by up to {stream.max_difference:.1e} in log p")
        if stream.frames >= limits.min_frames and stream.agreement < limits.stream_agreement:
            out.append(
                f"streaming and offline {head} agree on {100 * stream.agreement:.1f} % of frames, "
                f"{100 * limits.stream_agreement:.0f} % wanted"
            )
    return out
