"""Speech recognisers behind one surface, so that `edge-stt bench` can measure them on the same clips.

Each takes 16 kHz mono float32 samples and gives text. Others than edge-stt are used where they are installed, through
their Python packages, and with their own defaults but for the number of threads.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .byte_streams import printable_path
from .errors import EdgeSttError, RuntimeMissingError, UsageError
from .features import Floats, RunningNormaliser, StreamingLogMel
from .interpreter import AcousticModel, AcousticStream
from .recogniser import Transcriber, load_model
from .stage_clock import StageClock
from .streaming import Final, StreamingTranscriber

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Variant:
    """What is measured: an engine, its model (a path or a name), decoder, threads, and ``offline`` or ``stream``."""

    engine: str = "edge-stt"
    model: str | None = None
    decoder: str | None = None
    threads: int = 1
    mode: str = "offline"


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself once it is loaded; ``size`` in bytes is that of its model."""

    version: str
    model: str
    size: int
    decoder: str = ""
    runtime: str = ""


@dataclass(frozen=True)
class Reading:
    """Text, and where the engine tells, words as (text, start, end, confidence) in seconds."""

    text: str
    words: tuple[tuple[str, float, float, float], ...] = ()


@dataclass(frozen=True)
class StreamEvent:
    """Text shown while audio comes in: a partial replaces the one before, a final stays."""

    final: bool
    text: str


class Stream(Protocol):
    """One recording that comes in pieces."""

    def accept(self, samples: Floats) -> list[StreamEvent]:
        """What a piece (float32 ``[n]``) brings about."""
        ...

    def finish(self) -> list[StreamEvent]:
        """The recording is over."""
        ...


class Engine(Protocol):
    """A loaded recogniser. ``clock`` holds seconds by stage where the engine tells its stages apart."""

    info: EngineInfo
    clock: StageClock

    def transcribe(self, samples: Floats) -> Reading:
        """Text of a whole recording, float32 ``[n]`` at 16 kHz."""
        ...

    def stream(self) -> Stream:
        """A new stream; raises `UsageError` when the engine has none."""
        ...


class EdgeStt:
    """edge-stt itself, its stages told apart: features, model, decoder."""

    def __init__(self, variant: Variant) -> None:
        self.transcriber = load_model(variant.model, num_threads=variant.threads, decoder=variant.decoder)
        self.clock = StageClock()
        stages: list[tuple[str, Any, tuple[str, ...]]] = [
            ("features", StreamingLogMel, ("accept",)),
            ("features", RunningNormaliser, ("__call__",)),
            ("model", AcousticModel, ("offline",)),
            ("model", AcousticStream, ("accept", "finish")),
            ("decoder", type(self.transcriber.decoder), ("start", "advance", "best", "finish")),
        ]
        for stage, owner, names in stages:
            for name in names:
                self.clock.watch(owner, name, stage)
        package, runtime = self.transcriber.package, self.transcriber.acoustic.runtime
        self.info = EngineInfo(
            importlib.import_module("edge_stt").__version__,
            f"{printable_path(package.path.resolve().name)} ({package.info.name}, {package.info.quantization})",
            package.size,
            f"{self.transcriber.decoding.decoder} {self.transcriber.head}",
            f"{runtime.name} {runtime.version}",
        )

    def transcribe(self, samples: Floats) -> Reading:
        result = self.transcriber.transcribe_blocks([samples])
        return Reading(result.text, tuple((w.text, w.start, w.end, w.confidence) for w in result.words))

    def stream(self) -> Stream:
        return EdgeSttStream(self.transcriber)


class EdgeSttStream:
    """The streaming recogniser, its events as `StreamEvent`."""

    def __init__(self, transcriber: Transcriber) -> None:
        self._stream = StreamingTranscriber(transcriber)

    def accept(self, samples: Floats) -> list[StreamEvent]:
        return [StreamEvent(isinstance(e, Final), e.text) for e in self._stream.accept_audio(samples)]

    def finish(self) -> list[StreamEvent]:
        return [StreamEvent(isinstance(e, Final), e.text) for e in self._stream.finish()]


def _import(module: str, distribution: str) -> tuple[Any, str]:
    """A module of an optional engine and its version; raises `RuntimeMissingError` that says what to install."""
    try:
        return importlib.import_module(module), importlib.metadata.version(distribution)
    except ImportError as error:
        raise RuntimeMissingError(f"{distribution} does not load ({error}): pip install {distribution}") from error


def _size(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of all files below a folder."""
    found = Path(path)
    return sum(p.stat().st_size for p in ([found] if found.is_file() else found.rglob("*")) if p.is_file())


def _int16(samples: Floats) -> bytes:
    return (samples * 32767.0).clip(-32768, 32767).astype("<i2").tobytes()


class PocketSphinx:
    """CMU PocketSphinx (HMM-GMM, trigram); the wheel carries its US English model."""

    def __init__(self, variant: Variant) -> None:
        module, version = _import("pocketsphinx", "pocketsphinx")
        folder = variant.model or module.get_model_path("en-us")
        options = {} if variant.model is None else {"hmm": folder}
        self.decoder = module.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", **options)
        self.clock = StageClock()
        self.info = EngineInfo(version, "en-us" if variant.model is None else folder, _size(folder), "trigram")

    def transcribe(self, samples: Floats) -> Reading:
        self.decoder.start_utt()
        self.decoder.process_raw(_int16(samples), full_utt=True)
        self.decoder.end_utt()
        return Reading(self.text())

    def text(self) -> str:
        """The best hypothesis now."""
        hypothesis = self.decoder.hyp()
        return hypothesis.hypstr if hypothesis is not None else ""

    def stream(self) -> Stream:
        return PocketSphinxStream(self)


class PocketSphinxStream:
    """PocketSphinx decodes frame by frame anyway; the best path so far is the partial."""

    def __init__(self, engine: PocketSphinx) -> None:
        self.engine = engine
        engine.decoder.start_utt()

    def accept(self, samples: Floats) -> list[StreamEvent]:
        self.engine.decoder.process_raw(_int16(samples))
        return [StreamEvent(False, self.engine.text())]

    def finish(self) -> list[StreamEvent]:
        self.engine.decoder.end_utt()
        return [StreamEvent(True, self.engine.text())]


class Vosk:
    """Vosk (Kaldi); the model is a folder, ``--engine vosk=FOLDER``."""

    def __init__(self, variant: Variant) -> None:
        module, version = _import("vosk", "vosk")
        if variant.model is None or not Path(variant.model).is_dir():
            raise UsageError("vosk needs the folder of a model: --engine vosk=FOLDER")
        module.SetLogLevel(-1)
        self.recogniser = module.KaldiRecognizer(module.Model(variant.model), SAMPLE_RATE)
        self.clock = StageClock()
        self.info = EngineInfo(version, Path(variant.model).name, _size(variant.model))

    def transcribe(self, samples: Floats) -> Reading:
        stream = self.stream()
        events = stream.accept(samples) + stream.finish()
        return Reading(" ".join(e.text for e in events if e.final and e.text))

    def stream(self) -> Stream:
        return VoskStream(self.recogniser)


class VoskStream:
    """Vosk's own streaming, with its endpointing."""

    def __init__(self, recogniser: Any) -> None:
        self.recogniser = recogniser

    def accept(self, samples: Floats) -> list[StreamEvent]:
        if self.recogniser.AcceptWaveform(_int16(samples)):
            return [StreamEvent(True, json.loads(self.recogniser.Result())["text"])]
        return [StreamEvent(False, json.loads(self.recogniser.PartialResult())["partial"])]

    def finish(self) -> list[StreamEvent]:
        return [StreamEvent(True, json.loads(self.recogniser.FinalResult())["text"])]


class FasterWhisper:
    """Whisper through CTranslate2 (faster-whisper), int8; ``--engine faster-whisper=FOLDER_OR_NAME``."""

    def __init__(self, variant: Variant) -> None:
        module, version = _import("faster_whisper", "faster-whisper")
        name = variant.model or "tiny.en"
        self.model = module.WhisperModel(name, device="cpu", compute_type="int8", cpu_threads=variant.threads)
        self.clock = StageClock()
        self.info = EngineInfo(version, Path(name).name, _size(name), "beam 5", "ctranslate2 int8")

    def transcribe(self, samples: Floats) -> Reading:
        segments, _ = self.model.transcribe(samples, language="en")
        return Reading(" ".join(segment.text.strip() for segment in segments))

    def stream(self) -> Stream:
        raise UsageError("whisper has no streaming form")


class Whisper:
    """OpenAI's Whisper on PyTorch; ``--engine whisper=FILE_OR_NAME``."""

    def __init__(self, variant: Variant) -> None:
        module, version = _import("whisper", "openai-whisper")
        name = variant.model or "tiny.en"
        importlib.import_module("torch").set_num_threads(variant.threads)
        self.model = module.load_model(name, device="cpu")
        self.clock = StageClock()
        self.info = EngineInfo(version, Path(name).name, _size(name), "greedy", "torch float32")

    def transcribe(self, samples: Floats) -> Reading:
        return Reading(self.model.transcribe(np.asarray(samples), language="en", fp16=False)["text"].strip())

    def stream(self) -> Stream:
        raise UsageError("whisper has no streaming form")


class Moonshine:
    """Moonshine through moonshine-voice; ``--engine moonshine=FOLDER``, without it the tiny model its wheel carries."""

    def __init__(self, variant: Variant) -> None:
        module, version = _import("moonshine_voice", "moonshine-voice")
        folder = Path(variant.model or Path(module.__file__).parent / "assets" / "tiny-en")
        if not any(folder.glob("*.ort")):
            raise UsageError(f"{folder} has no Moonshine model (*.ort): --engine moonshine=FOLDER")
        if hasattr(os, "sched_setaffinity"):  # it takes all cores it sees, and has no option for fewer
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: variant.threads])
        arch = "BASE" if "base" in folder.name else "TINY"
        self.model = module.Transcriber(str(folder), module.ModelArch[arch])
        self.clock = StageClock()
        self.info = EngineInfo(version, folder.name, _size(folder), "greedy", "onnxruntime")

    def transcribe(self, samples: Floats) -> Reading:
        return Reading(" ".join(line.text for line in self.model.transcribe_without_streaming(samples).lines))

    def stream(self) -> Stream:
        raise UsageError("moonshine is measured offline only")


@dataclass(frozen=True)
class EngineKind:
    """How an engine is loaded, the module that must be there, and what can be asked of it."""

    load: Callable[[Variant], Engine]
    module: str
    streams: bool
    threads: bool


ENGINES = {
    "edge-stt": EngineKind(EdgeStt, "edge_stt", streams=True, threads=True),
    "pocketsphinx": EngineKind(PocketSphinx, "pocketsphinx", streams=True, threads=False),
    "vosk": EngineKind(Vosk, "vosk", streams=True, threads=False),
    "faster-whisper": EngineKind(FasterWhisper, "faster_whisper", streams=False, threads=True),
    "whisper": EngineKind(Whisper, "whisper", streams=False, threads=True),
    "moonshine": EngineKind(Moonshine, "moonshine_voice", streams=False, threads=True),
}


def installed_engines() -> list[str]:
    """Names of the other engines whose package is installed; their models may yet be missing."""
    return [n for n, kind in ENGINES.items() if n != "edge-stt" and importlib.util.find_spec(kind.module) is not None]


def load_engine(variant: Variant) -> Engine:
    """Load what a variant names; whatever an engine raises becomes an `EdgeSttError` of one line."""
    try:
        return ENGINES[variant.engine].load(variant)
    except EdgeSttError:
        raise
    except Exception as error:  # a foreign engine may raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise EdgeSttError(f"{variant.engine} cannot be loaded: {lines[0]}") from error
