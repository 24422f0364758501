"""Sound files for the tests: real speech in every format, and files that are broken in one known way each."""

from __future__ import annotations

import ctypes
import io
import random
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from edge_stt.features import Floats

from .conftest import DEMO


@dataclass(frozen=True)
class Format:
    """A container and coding as soundfile names them, and how close (correlation) its decoded speech comes."""

    container: str
    coding: str
    rates: tuple[int, ...]
    correlation: float

    def __str__(self) -> str:
        return f"{self.container}-{self.coding}"


ANY_RATE = (8_000, 16_000, 44_100)
LOSSLESS = 0.999_99
FORMATS = [
    Format("WAV", "PCM_U8", ANY_RATE, 0.99),
    Format("WAV", "PCM_16", (*ANY_RATE, 11_025, 22_050, 32_000, 48_000, 96_000, 192_000, 44_056), LOSSLESS),
    Format("WAV", "PCM_24", ANY_RATE, LOSSLESS),
    Format("WAV", "PCM_32", ANY_RATE, LOSSLESS),
    Format("WAV", "FLOAT", ANY_RATE, LOSSLESS),
    Format("WAV", "DOUBLE", ANY_RATE, LOSSLESS),
    Format("WAV", "ULAW", (8_000,), 0.995),
    Format("WAV", "ALAW", (8_000,), 0.995),
    Format("WAV", "IMA_ADPCM", (8_000, 16_000), 0.98),
    Format("WAVEX", "PCM_16", ANY_RATE, LOSSLESS),
    Format("RF64", "PCM_16", ANY_RATE, LOSSLESS),
    Format("W64", "PCM_16", ANY_RATE, LOSSLESS),
    Format("AIFF", "PCM_16", ANY_RATE, LOSSLESS),
    Format("AU", "PCM_16", ANY_RATE, LOSSLESS),
    Format("CAF", "PCM_16", ANY_RATE, LOSSLESS),
    Format("NIST", "PCM_16", (8_000, 16_000), LOSSLESS),
    Format("FLAC", "PCM_16", ANY_RATE, LOSSLESS),
    Format("FLAC", "PCM_24", ANY_RATE, LOSSLESS),
    Format("OGG", "VORBIS", ANY_RATE, 0.97),
    Format("OGG", "OPUS", (8_000, 16_000, 24_000, 48_000), 0.93),
    Format("MP3", "MPEG_LAYER_III", (16_000, 22_050, 44_100), 0.96),
]
# One of each decoder, for what is not about codings.
MAIN_NAMES = {"WAV-PCM_16", "FLAC-PCM_16", "OGG-VORBIS", "OGG-OPUS", "MP3-MPEG_LAYER_III"}
MAIN_FORMATS = [kind for kind in FORMATS if str(kind) in MAIN_NAMES]


@cache
def speech() -> Floats:
    """The demo clip, float32 ``[samples]`` at 16 kHz, decoded by soundfile and not by what is tested."""
    samples, rate = soundfile.read(DEMO, dtype="float32")
    assert rate == 16_000
    samples.flags.writeable = False
    return np.asarray(samples)


def encode(samples: npt.NDArray[Any], rate: int, container: str = "WAV", coding: str = "PCM_16") -> bytes:
    """``samples`` (``[samples]`` or ``[samples, channels]``) as the bytes of a sound file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=coding)
    return buffer.getvalue()


@cache
def encode_speech(kind: Format, rate: int, channels: int = 1) -> bytes:
    """The demo clip in a format, rate and number of equal channels."""
    samples = soxr.resample(speech(), 16_000, rate, quality="VHQ")
    return encode(np.stack([samples] * channels, axis=1), rate, kind.container, kind.coding)


def wav(
    data: bytes,
    rate: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    data_size: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A WAV by hand, so that its header may lie: ``data_size`` is stated instead of the true one."""
    size = len(data) if data_size is None else data_size
    align = channels * bits // 8
    chunks = b"fmt " + struct.pack("<IHHIIHH", 16, tag, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    chunks += before + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", min(len(chunks) + 4 + size, 0xFFFFFFFF)) + b"WAVE" + chunks + data


def flac_header(frames: int) -> bytes:
    """A FLAC file of its STREAMINFO alone (RFC 9639, 8.2), stating ``frames`` frames of 16-bit mono at 16 kHz."""
    rate_channels_bits_frames = 16_000 << 44 | 0 << 41 | 15 << 36 | frames
    info = struct.pack(">HH", 4_096, 4_096) + bytes(6) + rate_channels_bits_frames.to_bytes(8, "big") + bytes(16)
    return b"fLaC" + bytes([0x80]) + len(info).to_bytes(3, "big") + info


def speech_pcm(seconds: float = 2.0) -> bytes:
    """The start of the demo clip as raw 16-bit PCM."""
    return (speech()[: int(seconds * 16_000)] * 32_767).astype("<i2").tobytes()


def with_value(value: float, at: int, coding: str = "FLOAT", channels: int = 1) -> bytes:
    """A float WAV of speech with one bad value in frame ``at`` of the last channel."""
    samples = np.stack([speech()] * channels, axis=1).astype(np.float64 if coding == "DOUBLE" else np.float32)
    samples[at, -1] = value
    return encode(samples, 16_000, "WAV", coding)


def damaged_sds() -> bytes:
    """A MIDI sample dump whose packets do not start as they should: libsndfile's reader prints that to stdout."""
    data = bytearray(encode(speech(), 16_000, "SDS"))
    data[21::127] = bytes(len(data[21::127]))
    return bytes(data)


def flush_c_output() -> None:
    """Bring out what C code printed to standard output and stdio still holds."""
    ctypes.CDLL(None).fflush(None)


def broken_files() -> dict[str, tuple[bytes, str]]:
    """Files that hold no usable audio: name → (bytes, what the error says)."""
    pcm = speech_pcm()
    noise = random.Random(1).randbytes(5_000)
    not_audio = "not audio"
    return {
        "empty.wav": (b"", r"empty \(0 bytes\)"),
        "one-byte.wav": (b"R", not_audio),
        "text.wav": (b"This is not a sound file, whatever its name says.\n" * 40, not_audio),
        "text.raw": (b"a name that libsndfile takes for raw samples\n" * 40, not_audio),
        "page.mp3": (b"<!DOCTYPE html><html><title>404 Not Found</title></html>", not_audio),
        "picture.png": (b"\x89PNG\r\n\x1a\n" + noise, not_audio),
        "video.mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + noise, not_audio),
        "zip.flac": (b"PK\3\4" + noise, not_audio),
        "noise.ogg": (noise, not_audio),
        "damaged.sds": (damaged_sds(), not_audio),
        "zeros.wav": (bytes(10_000), not_audio),
        "RIFF-alone.wav": (b"RIFF", not_audio),
        "RIFF-video.avi": (b"RIFF\x00\x10\0\0AVI LIST" + noise, not_audio),
        "header-half.wav": (wav(pcm)[:30], not_audio),
        "no-samples-chunk.wav": (wav(pcm)[:36], not_audio),
        "unknown-coding.wav": (wav(pcm, tag=0x4242), not_audio),
        "no-channel.wav": (wav(pcm, channels=0), "not audio|channels"),
        "33-channels.wav": (wav(pcm, channels=33), "33 channels"),
        "65535-channels.wav": (wav(pcm, channels=65_535), "not audio|channels"),
        "0-Hz.wav": (wav(pcm, rate=0), "not audio|sample rate"),
        "1-Hz.wav": (wav(pcm, rate=1), "sample rate of 1 Hz"),
        "10-MHz.wav": (wav(pcm, rate=10_000_000), "sample rate of 10000000 Hz"),
        "4-GHz.wav": (wav(pcm, rate=0xFFFFFFFF), "not audio|sample rate"),
        "0-bits.wav": (wav(pcm, bits=0), not_audio),
        "40-bits.wav": (wav(pcm, bits=40), not_audio),
        "fLaC-alone.flac": (b"fLaC", not_audio),
        "long-claim.flac": (flac_header((1 << 36) - 1), "nothing in it can be decoded"),
        "cut-in-header.flac": (encode(speech(), 16_000, "FLAC")[:30], "not audio|nothing in it"),
        "cut-in-header.ogg": (encode(speech(), 16_000, "OGG", "VORBIS")[:500], not_audio),
        "cut-in-header.opus": (encode(speech(), 16_000, "OGG", "OPUS")[:40], not_audio),
        "cut-in-header.mp3": (encode(speech(), 16_000, "MP3", "MPEG_LAYER_III")[:50], "not audio|nothing in it"),
        "tag-alone.mp3": (b"ID3\3\0\0\0\0\0\x0a" + bytes(10), not_audio),
        "nan.wav": (with_value(np.nan, 24_000), r"sample at 1\.500 s is nan"),
        "nan-double.wav": (with_value(np.nan, 100, "DOUBLE"), r"sample at 0\.006 s is nan"),
        "nan-right.wav": (with_value(np.nan, 8_000, channels=2), r"sample at 0\.500 s is nan"),
        "inf.wav": (with_value(np.inf, 0), r"sample at 0\.000 s is inf"),
        "minus-inf.wav": (with_value(-np.inf, 16_000), r"sample at 1\.000 s is -inf"),
        "beyond-float32.wav": (with_value(1e300, 16_000, "DOUBLE"), r"sample at 1\.000 s is inf"),
        "1e30.wav": (with_value(1e30, 16_000), r"sample at 1\.000 s is 1e\+30|sample at 1\.000 s is 1\.0*\d*e\+30"),
    }
