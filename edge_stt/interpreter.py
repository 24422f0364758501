"""The acoustic model on a TFLite runtime: normalised log-mel in, log-probabilities out, offline or streaming.

Two runtimes stand behind `find_runtime`: ai-edge-litert, and tflite-runtime where the former has no wheel.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decoding import LogProbs
from .errors import PackageError, RuntimeMissingError
from .features import Floats
from .package import MODEL_FILE, ModelPackage

RUNTIMES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_NO_END = 2**30  # "the end is not known yet" for the stream signature


@dataclass(frozen=True)
class Runtime:
    """An installed TFLite runtime."""

    name: str
    version: str
    interpreter: Any


def find_runtime(name: str | None = None) -> Runtime:
    """The runtime of that name, or the first installed of `RUNTIMES`; ``EDGE_STT_RUNTIME`` chooses one too.

    Raises `RuntimeMissingError`, with the reason an installed one does not load.
    """
    wanted = name or os.environ.get("EDGE_STT_RUNTIME")
    if wanted and wanted not in RUNTIMES:
        raise RuntimeMissingError(f"unknown TFLite runtime {wanted!r}; known: {', '.join(RUNTIMES)}")
    reasons = []
    for candidate in [wanted] if wanted else RUNTIMES:
        try:
            with _quiet_stderr():
                module = importlib.import_module(RUNTIMES[candidate])
            return Runtime(candidate, importlib.metadata.version(candidate), module.Interpreter)
        except ModuleNotFoundError:
            continue
        except Exception as error:
            reasons.append(f"{candidate} does not load: {str(error).splitlines()[0]}")
    detail = "; ".join(reasons) or "none is installed"
    raise RuntimeMissingError(f"no TFLite runtime ({detail}): pip install {wanted or 'ai-edge-litert'}")


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence what native code prints to stderr when it loads and first runs (delegates announcing themselves)."""
    try:
        saved = os.dup(2)
    except OSError:  # a daemon may have closed it
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


class AcousticModel:
    """Runs a package's network. Log-mel is normalised, float32 ``[frames, n_mels]``; results are one array per head."""

    def __init__(self, package: ModelPackage, num_threads: int = 1, runtime: str | None = None) -> None:
        self.info = package.info
        self.runtime = find_runtime(runtime)
        self._ran: set[Any] = set()  # signatures
        content = package.read(MODEL_FILE)
        try:
            with _quiet_stderr():
                self._interpreter = self.runtime.interpreter(model_content=content, num_threads=num_threads)
                signatures = self._interpreter.get_signature_list()
                self._offline = self._interpreter.get_signature_runner("offline")
                self._stream = self._interpreter.get_signature_runner("stream") if "stream" in signatures else None
        except Exception as error:
            raise PackageError(
                f"{package.path}: {self.runtime.name} {self.runtime.version} cannot load the model: "
                f"{str(error).splitlines()[0]}"
            ) from error

    def offline(self, log_mel: Floats) -> dict[str, LogProbs]:
        """Log-probabilities of a whole utterance: float32 ``[ceil(frames / stride), units]`` per head."""
        count = -(-len(log_mel) // self.info.stride)
        if count == 0:
            return {head: np.empty((0, len(units)), np.float32) for head, units in self.info.heads.items()}
        out = self._run(self._offline, log_mel=self._padded(log_mel, count * self.info.stride)[None])
        return {head: out[head][0] for head in self.info.heads}

    def stream(self) -> AcousticStream:
        """Start a stream; several may be open at once, each with its own state."""
        if self._stream is None or self.info.stream is None:
            raise PackageError(f"the model {self.info.name} has no streaming form; use it offline")
        return AcousticStream(self)

    def _run(self, signature: Any, **inputs: Any) -> dict[str, Any]:
        """Run a signature. Only the first run is silenced: meanwhile no other thread can say or start anything."""
        if signature in self._ran:
            return signature(**inputs)
        with _quiet_stderr():
            out = signature(**inputs)
        self._ran.add(signature)
        return out

    @staticmethod
    def _padded(log_mel: Floats, frames: int) -> Floats:
        if len(log_mel) == frames:
            return log_mel
        out = np.zeros((frames, log_mel.shape[1]), dtype=np.float32)
        out[: len(log_mel)] = log_mel
        return out


class AcousticStream:
    """The network on frames as they come; the outputs of a stream joined equal those of `AcousticModel.offline`.

    Outputs lag the input by the model's lookahead and by up to one chunk.
    """

    def __init__(self, model: AcousticModel) -> None:
        assert model.info.stream is not None
        self._model, self._info = model, model.info
        self._chunk = model.info.stream.chunk_frames
        self._states = {name: np.zeros(shape, np.float32) for name, shape in model.info.stream.states.items()}
        self._pending = np.empty((0, model.info.front_end.n_mels), dtype=np.float32)
        self._position = 0  # output frames' worth of input fed so far
        self._emitted = 0

    def accept(self, log_mel: Floats) -> dict[str, LogProbs]:
        """Feed normalised frames; returns the output frames that became certain, float32 ``[n, units]`` per head."""
        self._pending = np.concatenate([self._pending, log_mel])
        outputs = []
        while len(self._pending) >= self._chunk:
            outputs.append(self._run(self._pending[: self._chunk], _NO_END))
            self._pending = self._pending[self._chunk :]
        return self._joined(outputs)

    def finish(self) -> dict[str, LogProbs]:
        """End the utterance: the remaining output frames. The stream must not be used again."""
        end = self._position + -(-len(self._pending) // self._info.stride)
        outputs = []
        while self._emitted < end:
            chunk = AcousticModel._padded(self._pending, self._chunk)
            self._pending = self._pending[:0]
            outputs.append(self._run(chunk, end))
        return self._joined(outputs)

    def _run(self, chunk: Floats, end: int) -> dict[str, LogProbs]:
        assert self._model._stream is not None
        out = self._model._run(
            self._model._stream,
            log_mel=chunk[None],
            position=np.array([self._position], np.int32),
            end=np.array([end], np.int32),
            **self._states,
        )
        self._states = {name: out[name] for name in self._states}
        count = self._chunk // self._info.stride
        first = self._position - self._info.lookahead  # index of the first output of this chunk
        self._position += count
        keep = slice(max(0, self._emitted - first), max(0, min(count, end - first)))
        result = {head: out[head][0][keep] for head in self._info.heads}
        self._emitted += max(0, keep.stop - keep.start)
        return result

    def _joined(self, outputs: list[dict[str, LogProbs]]) -> dict[str, LogProbs]:
        return {
            head: np.concatenate([np.empty((0, len(units)), np.float32), *(out[head] for out in outputs)])
            for head, units in self._info.heads.items()
        }
