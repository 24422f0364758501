"""The error analysis: one HTML file with alignments, confusions, audio and spectrograms, that loads nothing else.

The page is ``data/error_page.html``; here it is filled with data. Texts are put in by script as text, so nothing in a
transcript can become markup; the JSON between them is escaped so that it cannot end its element.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .audio import SAMPLE_RATE, read_audio
from .benchmark import TestSet
from .corpora import Clip
from .errors import AudioError
from .features import Floats, FrontEndConfig, log_mel
from .figures import Scored
from .report import Report, count_threads, machine_line, name
from .scoring import align

TEMPLATE = Path(__file__).parent / "data" / "error_page.html"
AUDIO_SECONDS = 3_600.0  # audio the page may hold, about 25 MB; the clips with the most errors come first
SPECTROGRAM_WIDTH = 1_000
SHADES = 32  # few enough to compress well, more than the eye tells apart
# Corners of matplotlib's "magma" (S. van der Walt and N. Smith, CC0), interpolated between.
PALETTE = ((0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))


def error_page(report: Report, sets: Sequence[TestSet]) -> str:
    """The page for all results of a run; ``sets`` are those that were measured, and their files must still be there."""
    clips: dict[tuple[str, int], int] = {}
    chosen: list[tuple[TestSet, int]] = []
    results = []
    by_name = {test_set.name: test_set for test_set in sets}
    for scored in report.scored:
        test_set = by_name[scored.row.set]
        utterances = []
        for position, index in enumerate(scored.indices):
            key = (test_set.name, index)
            if key not in clips:
                clips[key] = len(chosen)
                chosen.append((test_set, index))
            utterances.append({"clip": clips[key], **_utterance(scored, position)})
        row = scored.row
        label = f"{row.set}: {name(row)}, {row.decoder}, {count_threads(row.threads)}, {row.mode}"
        results.append({"label": label, "utterances": utterances})
    worst = _worst_first(report.scored, clips)
    audible: set[int] = set()
    seconds = 0.0
    durations = _durations(report.scored, clips)
    for number in worst:
        if seconds + durations[number] > AUDIO_SECONDS:
            continue
        seconds += durations[number]
        audible.add(number)
    data = {
        "title": f"Errors: {', '.join(dict.fromkeys(row.set for row in report.rows))}",
        "machine": f"edge-stt {report.version}, {machine_line(report)}",
        "clips": [
            _clip_data(test_set.clips[index], durations[number], number in audible)
            for number, (test_set, index) in enumerate(chosen)
        ],
        "results": results,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", text)


def _utterance(scored: Scored, position: int) -> dict[str, Any]:
    score, measured = scored.scores[position], scored.measured[position]
    pairs = align(score.reference.split(), score.hypothesis.split())
    # Times belong to words as the engine wrote them: usable when normalising has not changed how many there are.
    times = [[w[1], w[2], w[3]] for w in measured.words]
    return {"pairs": pairs, **({"times": times} if len(times) == len(score.hypothesis.split()) else {})}


def _worst_first(results: Sequence[Scored], clips: dict[tuple[str, int], int]) -> list[int]:
    errors = dict.fromkeys(clips.values(), 0)
    for scored in results:
        for index, score in zip(scored.indices, scored.scores, strict=True):
            number = clips[scored.row.set, index]
            errors[number] = max(errors[number], score.words.errors)
    return sorted(errors, key=lambda number: -errors[number])


def _durations(results: Sequence[Scored], clips: dict[tuple[str, int], int]) -> dict[int, float]:
    return {
        clips[scored.row.set, index]: measured.duration
        for scored in results
        for index, measured in zip(scored.indices, scored.measured, strict=True)
    }


def _clip_data(clip: Clip, duration: float, audible: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"id": clip.id, "speaker": clip.speaker, "duration": round(duration, 3)}
    if audible:
        try:
            samples = read_audio(clip.path)
        except AudioError:  # gone or damaged since it was measured: the texts still stand
            return data
        kind, content = encode_audio(samples)
        data["audio"] = _data_uri(kind, content)
        data["spectrogram"] = _data_uri("image/png", spectrogram_png(samples))
    return data


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def encode_audio(samples: Floats) -> tuple[str, bytes]:
    """16 kHz samples as Ogg Opus where libsndfile can write it, otherwise FLAC: media type and bytes."""
    import soundfile

    opus = "OPUS" in soundfile.available_subtypes("OGG")
    buffer = io.BytesIO()
    form, subtype = ("OGG", "OPUS") if opus else ("FLAC", "PCM_16")
    soundfile.write(buffer, samples.clip(-1.0, 1.0), SAMPLE_RATE, format=form, subtype=subtype)
    return ("audio/ogg" if opus else "audio/flac"), buffer.getvalue()


def spectrogram_png(samples: Floats) -> bytes:
    """Log-mel energies as a PNG, low frequencies below; what the model sees but for normalisation."""
    frames = log_mel(samples, FrontEndConfig())
    if len(frames) == 0:
        frames = np.full((1, FrontEndConfig().n_mels), -13.0, np.float32)
    step = -(-len(frames) // SPECTROGRAM_WIDTH)
    whole = frames[: len(frames) // step * step] if len(frames) >= step else frames
    image = whole.reshape(-1, step, frames.shape[1]).max(axis=1).T[::-1]
    low, high = np.percentile(image, [5, 99.8])
    shades = ((image - low) / max(1e-6, high - low) * (SHADES - 1)).clip(0, SHADES - 1).astype(np.uint8)
    corners = np.linspace(0, 1, len(PALETTE))
    palette = np.array([np.interp(np.linspace(0, 1, SHADES), corners, c) for c in np.array(PALETTE).T]).T
    return _indexed_png(shades, palette.astype(np.uint8))


def _indexed_png(image: npt.NDArray[np.uint8], palette: npt.NDArray[np.uint8]) -> bytes:
    """An 8-bit indexed PNG of ``[height, width]`` (ISO/IEC 15948), each line with filter 0."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = image.shape
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", palette.tobytes())
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )
