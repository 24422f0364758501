"""Build a model package from a training run: graph → TFLite in a child process → golden pair, card, hashes."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_stt.audio import read_audio
from edge_stt.errors import EdgeSttError, UsageError
from edge_stt.features import Floats, NormalizationConfig, log_mel, normalise_utterance
from edge_stt.interpreter import AcousticModel
from edge_stt.package import CARD_FILE, GOLDEN_FILE, MODEL_FILE, ModelInfo, ModelPackage, write_package

from .card import model_card
from .graph import TrainedModel, load_run, save_graphs, stream_info

MODES = ("float32", "float16", "dynamic", "int8", "int16x8")
DEMO_CLIP = Path(__file__).parent.parent / "edge_stt" / "data" / "demo.opus"
GOLDEN_FRAMES = 300


class ConversionError(EdgeSttError):
    """The converter refused or crashed."""


@dataclass(frozen=True)
class BuildConfig:
    """What goes into a package beside the weights; ``notes`` is Markdown for the model card."""

    name: str
    quantize: str = "dynamic"
    licence: str = "CC BY 4.0"
    default_head: str = "characters"
    notes: str = ""


def to_tflite(model: TrainedModel, mode: str, calibration: list[Floats] | None = None) -> bytes:
    """Convert. ``calibration`` is normalised log-mel, needed by the integer modes.

    Raises `ConversionError` with the converter's reason, also when it crashes.
    """
    if mode not in MODES:
        raise UsageError(f"unknown quantization {mode!r}; choose one of {', '.join(MODES)}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_graphs(model, work / "saved_model")
        arguments = [str(work / "saved_model"), str(work / "model.tflite"), mode]
        if mode in ("int8", "int16x8"):
            if not calibration:
                raise ConversionError(f"{mode} needs representative clips: give a manifest with --data")
            np.savez(work / "calibration.npz", *calibration)
            arguments.append(str(work / "calibration.npz"))
        root = Path(__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-m", "convert.child", *arguments], cwd=root, capture_output=True, text=True, check=False
        )
        if done.returncode < 0:
            raise ConversionError(
                f"{mode}: TensorFlow's converter crashed (signal {-done.returncode}); nothing written"
            )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise ConversionError(f"{mode}: the converter failed: {lines[-1] if lines else 'no reason given'}")
        return (work / "model.tflite").read_bytes()


def golden_input(model: TrainedModel) -> Floats:
    """Three seconds of the demo clip as normalised log-mel, float32 ``[300, n_mels]``."""
    frames = log_mel(read_audio(DEMO_CLIP), model.front_end)[:GOLDEN_FRAMES]
    return normalise_utterance(frames, model.statistics)


def build_package(
    run: Path, out: Path, config: BuildConfig, calibration: list[Floats] | None = None, overwrite: bool = False
) -> ModelPackage:
    """Convert a run and write the package to ``out``."""
    model = load_run(run)
    content = to_tflite(model, config.quantize, calibration)
    info = ModelInfo(
        name=config.name,
        architecture={"parameters": model.parameters, **asdict(model.config.model)},
        front_end=model.front_end,
        normalization=NormalizationConfig(),
        statistics=model.statistics,
        heads=model.units,
        default_head=config.default_head,
        stride=model.network.stride,
        lookahead=model.network.lookahead,
        stream=stream_info(model),
        quantization=config.quantize,
        run=f"{model.config.name}@{model.step}",
        licence=config.licence,
    )
    files = {MODEL_FILE: content}
    golden = golden_input(model)
    with tempfile.TemporaryDirectory() as folder:
        # The golden outputs are those of the converted file itself: they prove an installation, not the conversion.
        trial = write_package(Path(folder) / "trial", info, {**files, GOLDEN_FILE: b""})
        acoustic = AcousticModel(trial)
        outputs = acoustic.offline(golden)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"log_mel": golden[None], **{head: x[None] for head, x in outputs.items()}}
    np.savez_compressed(buffer, **arrays)
    files[GOLDEN_FILE] = buffer.getvalue()
    files[CARD_FILE] = model_card(info, len(content), config.notes).encode()
    return write_package(out, info, files, overwrite)
