"""Audio in: every format round trip, rates and channels, pipes, arrays, and files that are broken in known ways."""

from __future__ import annotations

import errno
import gzip
import io
import logging
import os
import select
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_stt.audio import SAMPLE_RATE, audio_duration, convert_samples, read_audio, read_pcm, read_stdin, stream_audio
from edge_stt.errors import AudioError, RuntimeMissingError
from edge_stt.features import Floats

from .audio_samples import (
    FORMATS,
    LOSSLESS,
    MAIN_FORMATS,
    Format,
    broken_files,
    encode,
    encode_speech,
    flac_header,
    flush_c_output,
    speech,
    speech_pcm,
    wav,
    with_value,
)
from .conftest import DEMO, ROOT

BROKEN = broken_files()


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives its bytes in pieces of the sizes told, over and over."""

    def __init__(self, data: bytes, sizes: list[int] | None = None) -> None:
        self._data = data
        self._sizes = sizes or [100_000]
        self._turn = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        piece, self._data = self._data[:size], self._data[size:]
        buffer[: len(piece)] = piece
        return len(piece)


def joined(blocks: Any) -> Floats:
    return np.concatenate([np.empty(0, np.float32), *blocks])


def pcm_values(data: bytes) -> Floats:
    return np.frombuffer(data, "<i2").astype(np.float32) / 32_768


def assert_audio(samples: Floats) -> None:
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert np.isfinite(samples).all()


def assert_one_line(message: str) -> None:
    assert message.isprintable()
    assert len(message) < 400
    message.encode("utf-8")


def correlation(a: Floats, b: Floats) -> float:
    length = min(len(a), len(b))
    return float(np.corrcoef(a[:length], b[:length])[0, 1])


# --- formats, rates, channels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [(kind, rate, 1) for kind in FORMATS for rate in kind.rates] + [(kind, kind.rates[0], 2) for kind in FORMATS],
    ids=str,
)
def test_every_format_gives_the_speech_back(tmp_path: Path, kind: Format, rate: int, channels: int) -> None:
    path = tmp_path / "speech"  # no ending: the content alone counts
    path.write_bytes(encode_speech(kind, rate, channels))
    samples = read_audio(path)
    assert_audio(samples)
    # What a lower rate cannot hold is not asked for: compare with the speech that went through that rate.
    expected = soxr.resample(soxr.resample(speech(), 16_000, rate, quality="VHQ"), rate, 16_000, quality="VHQ")
    # Some codings pad the last of their blocks (up to 2041 samples at 8 kHz for IMA ADPCM).
    padding = 4_100 if kind.coding == "IMA_ADPCM" else 2
    assert abs(len(samples) - len(speech()) - padding // 2) <= padding // 2 + 1
    assert correlation(samples, expected) > kind.correlation
    # MP3 may not hold a high tone or two, so levels are compared and not samples.
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(np.sqrt(np.mean(expected**2)), rel=0.05)


@pytest.mark.parametrize("kind", [k for k in FORMATS if k.correlation == LOSSLESS], ids=str)
def test_lossless_formats_at_16_khz_are_exact(tmp_path: Path, kind: Format) -> None:
    path = tmp_path / "speech"
    path.write_bytes(encode_speech(kind, SAMPLE_RATE))
    np.testing.assert_allclose(read_audio(path), speech(), atol=0.51 / 32_768, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 44_056, 48_000, 96_000, 192_000, 384_000])
def test_resampling_keeps_frequency_amplitude_and_length(rate: int) -> None:
    seconds, frequency, amplitude = 2.0, 1_234.5, 0.5
    sine = amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    resampled = read_audio(io.BytesIO(encode(sine, rate, "WAV", "FLOAT")))
    assert abs(len(resampled) - seconds * SAMPLE_RATE) <= 1
    expected = amplitude * np.sin(2 * np.pi * frequency * np.arange(len(resampled)) / SAMPLE_RATE)
    middle = slice(800, -800)  # the ends ring, because the sine starts and stops at once
    np.testing.assert_allclose(resampled[middle], expected[middle], atol=2e-4)


def test_resampling_leaves_no_alias_of_what_16_khz_cannot_hold() -> None:
    sine = 0.5 * np.sin(2 * np.pi * 11_000 * np.arange(2 * 44_100) / 44_100)  # would fold to 5 kHz
    resampled = read_audio(io.BytesIO(encode(sine, 44_100, "WAV", "FLOAT")))
    assert np.abs(resampled[800:-800]).max() < 0.5e-4  # -80 dB


def test_channels_are_averaged() -> None:
    channels = np.stack([speech(), np.zeros_like(speech()), -0.5 * speech()], axis=1)
    samples = read_audio(io.BytesIO(encode(channels, 16_000, "WAV", "FLOAT")))
    np.testing.assert_allclose(samples, speech() / 6, atol=1e-7)


def test_32_channels_are_read(tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    path.write_bytes(encode(np.stack([speech()[:16_000]] * 32, axis=1), 16_000))
    np.testing.assert_allclose(read_audio(path), speech()[:16_000], atol=1e-4)


def test_the_demo_clip_is_what_soundfile_decodes_in_one_go() -> None:
    np.testing.assert_array_equal(read_audio(DEMO), speech())
    assert 4.0 <= len(speech()) / SAMPLE_RATE <= 8.0
    assert (DEMO.with_suffix(".txt").read_text(encoding="utf-8").strip()).startswith("The County Court")


# --- streaming ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(block_seconds=st.floats(0.0005, 8.0), kind=st.sampled_from(MAIN_FORMATS), rate=st.sampled_from([16_000, 8_000]))
def test_streamed_equals_whole(
    tmp_path_factory: pytest.TempPathFactory, block_seconds: float, kind: Format, rate: int
) -> None:
    rate = rate if rate in kind.rates else 44_100
    path = tmp_path_factory.getbasetemp() / f"{kind}-{rate}"
    if not path.exists():
        path.write_bytes(encode_speech(kind, rate))
    blocks = list(stream_audio(path, block_seconds))
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path))
    length = max(1, round(block_seconds * SAMPLE_RATE))
    assert {len(block) for block in blocks[:-1]} <= {length}
    assert 0 < len(blocks[-1]) <= length


def test_an_abandoned_stream_closes_its_file() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    blocks = stream_audio(DEMO, 0.1)
    next(blocks)
    assert len(list(Path("/proc/self/fd").iterdir())) > before
    del blocks
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "refused.wav"
    path.write_bytes(b"RIFF")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(AudioError):
            read_audio(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_long_file_is_streamed_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16") as file:
        minute = np.random.default_rng(0).normal(0, 0.1, (44_100 * 60, 2)).astype(np.float32)
        for _ in range(3):
            file.write(minute)
    code = (
        "import resource, sys, soundfile, soxr\nfrom edge_stt.audio import stream_audio, read_audio\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_audio(sys.argv[2])\nstart = peak()\n"
        "n = sum(map(len, stream_audio(sys.argv[1])))\nprint(n, peak() - start)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path), str(DEMO)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    samples, kilobytes = map(int, out.stdout.split())
    assert abs(samples - 180 * SAMPLE_RATE) <= 1
    assert kilobytes < 4_000  # the whole would be 11.5 MB


# --- empty, silent, broken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        encode(np.empty(0), 16_000),
        encode(np.empty((0, 2)), 44_100, "WAV", "FLOAT"),
        encode(np.empty(0), 44_100, "AIFF"),
        encode(np.empty(0), 16_000, "OGG", "VORBIS"),
        flac_header(0),
    ],
    ids=["WAV", "WAV-float-stereo", "AIFF", "VORBIS", "FLAC"],
)
def test_a_container_without_samples_is_empty(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    samples = read_audio(io.BytesIO(data))
    assert_audio(samples)
    assert len(samples) == 0
    assert list(stream_audio(io.BytesIO(data))) == []
    assert not caplog.records


@pytest.mark.parametrize("kind", MAIN_FORMATS, ids=str)
def test_silence_is_zeros(kind: Format) -> None:
    rate = kind.rates[-1]
    samples = read_audio(io.BytesIO(encode(np.zeros(rate), rate, kind.container, kind.coding)))
    assert len(samples) == 16_000
    assert np.abs(samples).max() < 1e-4


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("by", ["path", "stream"])
def test_broken_files_give_one_line(tmp_path: Path, name: str, by: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, says = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if by == "path":
            with pytest.raises(AudioError, match=says) as caught:
                read_audio(path)
            assert str(path) in str(caught.value)
        else:
            with pytest.raises(AudioError, match=says) as caught:
                read_audio(Pipe(data))
    assert_one_line(str(caught.value).replace(str(path), name))
    flush_c_output()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("share", [0.95, 0.5, 0.25])
@pytest.mark.parametrize(
    "kind", [*MAIN_FORMATS, Format("WAV", "FLOAT", (), 1), Format("AIFF", "PCM_16", (), 1)], ids=str
)
def test_truncated_files_give_what_is_left_and_one_warning(
    tmp_path: Path, kind: Format, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    data = encode_speech(kind, SAMPLE_RATE)
    whole = read_audio(io.BytesIO(data))
    assert not caplog.records
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share) + 1])
    samples = read_audio(path)
    assert_audio(samples)
    np.testing.assert_allclose(samples, whole[: len(samples)], atol=1e-6)
    # Compressed audio is lost by the page or block (Ogg pages here hold up to about a second).
    assert share * len(whole) - 1.2 * SAMPLE_RATE < len(samples) < len(whole)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.WARNING
    assert "cut short" in message
    assert str(path) in message
    assert_one_line(message)


def test_damage_in_the_middle_of_a_flac_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(encode(speech(), SAMPLE_RATE, "FLAC"))
    data[len(data) // 2 : len(data) // 2 + 3_000] = bytes(3_000)
    path = tmp_path / "damaged.flac"
    path.write_bytes(data)
    samples = read_audio(path)
    assert len(samples) > 2 * SAMPLE_RATE
    np.testing.assert_allclose(samples[:32_000], speech()[:32_000], atol=1e-4)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("bits", [16, 24])
def test_a_wav_that_was_written_to_a_pipe_is_read_whole(size: int, bits: int, caplog: pytest.LogCaptureFixture) -> None:
    pcm = speech_pcm() if bits == 16 else bytes(6_000)
    data = wav(pcm, bits=bits, data_size=size)
    assert len(read_audio(io.BytesIO(data))) == len(pcm) // (bits // 8)
    assert len(joined(read_stdin(io.BytesIO(data)))) == len(pcm) // (bits // 8)
    assert not caplog.records


def test_a_recording_that_was_never_closed_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "killed.wav"
    pcm = speech_pcm()
    path.write_bytes(wav(pcm, data_size=0))
    np.testing.assert_array_equal(read_audio(path), pcm_values(pcm))
    assert audio_duration(path) is None
    assert len(caplog.records) == 1
    assert "never closed" in caplog.text
    path.write_bytes(wav(bytes(9_000), bits=24, data_size=0))
    with pytest.raises(AudioError, match="never closed"):
        read_audio(path)


@pytest.mark.parametrize("length", [9_000, 9_001])
@pytest.mark.parametrize("bits", [16, 24])
def test_what_follows_no_samples_is_not_taken_for_sound(
    tmp_path: Path, length: int, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Titles and pictures behind an empty ``data`` chunk; but samples behind one, even all zero, are a recording."""
    path = tmp_path / "empty.wav"
    tags = b"id3 " + struct.pack("<I", 5) + b"hello\0" + b"LIST" + struct.pack("<I", length) + b"x" * length
    for filling in dict.fromkeys((b"", bytes(length % 2))):
        path.write_bytes(wav(b"", bits=bits) + tags + filling)
        assert len(read_audio(path)) == 0
        assert audio_duration(path) == 0.0
    assert not caplog.records
    for after in (tags[:-100], tags + b"more than a filling byte", bytes(9_000)):
        path.write_bytes(wav(b"", bits=16) + after)
        assert len(read_audio(path)) == len(after) // 2
        assert "never closed" in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    "data",
    [
        wav(speech_pcm(), data_size=0xFFFFFFF0),
        wav(speech_pcm(), data_size=0x7F000000),
        flac_header((1 << 36) - 1),
        flac_header((1 << 36) - 1) + encode(speech(), 16_000, "FLAC")[42:],
        b"RF64\xff\xff\xff\xffWAVEds64" + b"\x1c\0\0\0" + b"\xff" * 28 + wav(speech_pcm())[12:],
        encode(speech(), 16_000, "AU")[:8] + b"\xff\xff\xff\xf0" + encode(speech(), 16_000, "AU")[12:],
        wav(speech_pcm(), before=b"LIST\xf0\xff\xff\xff"),
    ],
    ids=["wav", "wav-2GB", "flac", "flac-with-audio", "rf64", "au", "list"],
)
def test_a_header_that_claims_gigabytes_allocates_nothing(data: bytes) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        read_audio(io.BytesIO(data))
    except AudioError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5e6


# --- paths ----------------------------------------------------------------------------------------------------------


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    for path, says in [
        (tmp_path / "missing.wav", "there is no such file"),
        (tmp_path / ("x" * 300), "cannot be opened"),
        (tmp_path, "is a directory"),
        (Path("/dev/null"), "nothing came in"),
        (Path("/dev/zero"), "not audio"),
        (Path("nul\0byte.wav"), "cannot be opened"),
        (Path("/proc/self/mem"), "empty"),
    ]:
        with pytest.raises(AudioError, match=says) as caught:
            read_audio(path)
        assert "\n" not in str(caught.value)
        assert audio_duration(path) is None


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "private.wav"
    path.write_bytes(wav(speech_pcm()))
    path.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        with pytest.raises(AudioError, match="no permission"):
            read_audio(path)
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"new\nline.wav", b"\xff\xfe", "mühle 音.wav".encode(), b"-", b" a "])
def test_any_file_name_works_and_prints(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(wav(speech_pcm()))
    np.testing.assert_array_equal(read_audio(path), pcm_values(speech_pcm()))
    assert audio_duration(path) == 2.0
    path.write_bytes(b"no audio")
    with pytest.raises(AudioError) as caught:
        read_audio(str(path))
    assert_one_line(str(caught.value).replace(str(tmp_path), ""))


def test_durations_come_from_headers(tmp_path: Path) -> None:
    for kind in MAIN_FORMATS:
        path = tmp_path / str(kind)
        path.write_bytes(encode_speech(kind, kind.rates[1]))
        assert audio_duration(path) == pytest.approx(len(speech()) / SAMPLE_RATE, abs=0.001)
    assert audio_duration(DEMO) == pytest.approx(6.253, abs=0.001)
    path.write_bytes(encode(np.empty(0), 16_000))
    assert audio_duration(path) == 0.0
    path.write_bytes(b"no audio")
    assert audio_duration(path) is None


def test_an_mp3_without_a_length_header_has_no_duration_and_no_false_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = encode_speech(Format("MP3", "MPEG_LAYER_III", (), 1), 16_000)
    following = data.index(data[:2], 4)  # the first frame holds the length alone
    path = tmp_path / "bare.mp3"
    path.write_bytes(data[following:])
    assert audio_duration(path) is None
    assert correlation(read_audio(path)[1_105:], speech()) > 0.9  # its decoder delay is not known either
    assert not caplog.records


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (wav(speech_pcm()), 2.0),
        (encode(speech()[:16_000], 44_100, "FLAC"), 16_000 / 44_100),
        (DEMO.read_bytes(), 6.253),
    ],
    ids=["wav", "flac", "opus"],
)
def test_a_named_pipe_is_read(tmp_path: Path, data: bytes, seconds: float) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert audio_duration(path) is None  # without waiting for a writer
    writer = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    writer.start()
    samples = read_audio(path)
    writer.join(5)
    assert len(samples) == pytest.approx(seconds * SAMPLE_RATE, abs=8)
    np.testing.assert_allclose(samples, read_audio(io.BytesIO(data)), atol=1e-6)


# --- streams and standard input -------------------------------------------------------------------------------------


def test_streams_of_all_kinds(tmp_path: Path) -> None:
    data = DEMO.read_bytes()
    (tmp_path / "demo.gz").write_bytes(gzip.compress(data))
    with DEMO.open("rb") as file, gzip.open(tmp_path / "demo.gz") as packed:
        for stream in (file, packed, io.BytesIO(data), Pipe(data, [1, 3, 1_000])):
            np.testing.assert_array_equal(read_audio(stream), speech())


def test_streams_that_fail(tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "cut.gz").write_bytes(gzip.compress(wav(speech_pcm()))[:-2_000])
    closed = io.BytesIO(b"RIFF")
    closed.close()
    with gzip.open(tmp_path / "cut.gz") as cut, gzip.open(io.BytesIO(b"no gzip")) as not_gzip:
        streams: list[tuple[Any, str]] = [
            (Broken(), "reading failed"),
            (closed, "reading failed"),
            (cut, "reading failed"),
            (not_gzip, "reading failed"),
            (io.StringIO("text"), "binary mode"),
            (io.BytesIO(), "empty"),
        ]
        for stream, says in streams:
            with pytest.raises(AudioError, match=says) as caught:
                read_audio(stream)
            assert_one_line(str(caught.value))


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=2_000),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=10),
    channels=st.integers(1, 3),
)
def test_pcm_is_the_same_in_any_pieces(data: bytes, sizes: list[int], channels: int) -> None:
    whole = len(data) // (2 * channels)
    expected = pcm_values(data[: whole * 2 * channels]).reshape(whole, channels).mean(axis=1, dtype=np.float32)
    blocks = list(read_pcm(Pipe(data, sizes), channels=channels, block_seconds=0.01))
    np.testing.assert_array_equal(joined(blocks), expected)
    assert all(0 < len(block) <= 160 for block in blocks)


def test_pcm_at_other_rates_is_resampled_the_same_in_any_pieces() -> None:
    data = speech_pcm()
    whole = joined(read_pcm(io.BytesIO(data), 44_100))
    np.testing.assert_allclose(joined(read_pcm(Pipe(data, [7, 1, 500]), 44_100)), whole, atol=1e-6)
    np.testing.assert_allclose(whole, convert_samples(np.frombuffer(data, "<i2"), 44_100), atol=1e-6)


def test_an_odd_tail_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert len(joined(read_pcm(io.BytesIO(bytes(7)), channels=2))) == 1
    assert "last 3 bytes" in caplog.text
    with pytest.raises(AudioError, match="sample rate of 0 Hz"):
        list(read_pcm(io.BytesIO(b""), 0))
    with pytest.raises(AudioError, match="0 channels"):
        list(read_pcm(io.BytesIO(b""), channels=0))


def test_pcm_that_looks_like_a_sound_file_is_still_pcm() -> None:
    for start in (b"\xff\xfb\x90\x00", b"\xff\xfb", b"\xff\xf3\x40\xc0", b"ID", b"RIFe", b"\xff\xff\xff\xff"):
        data = start + speech_pcm(0.1)
        np.testing.assert_array_equal(joined(read_stdin(io.BytesIO(data))), pcm_values(data))


READ_STDIN = (
    "import sys\nfrom edge_stt.audio import AudioError, read_stdin\n"
    "options = dict(zip(('sample_rate', 'channels'), map(int, sys.argv[1:])))\n"
    "try:\n"
    "    for block in read_stdin(**options):\n"
    "        sys.stdout.buffer.write(block.tobytes())\n"
    "        sys.stdout.buffer.flush()\n"
    "except AudioError as error:\n"
    "    sys.exit(str(error))\n"
)


def run_stdin(data: bytes, *arguments: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", READ_STDIN, *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=False, cwd=ROOT, timeout=60)


def mp3(tagged: bool) -> bytes:
    data = encode_speech(Format("MP3", "MPEG_LAYER_III", (), 1), 44_100)
    return b"ID3\3\0\0\0\0\1\0" + bytes(128) + data if tagged else data


@pytest.mark.parametrize(
    "data",
    [
        wav(speech_pcm()),
        wav(speech_pcm(), rate=44_100, channels=2),
        wav(speech_pcm(), before=b"LIST\5\0\0\0hello\0", data_size=0xFFFFFFFF),
        wav(speech_pcm()) + b"LIST\4\0\0\0INFO",
        encode(speech(), 16_000, "WAVEX"),
        encode(speech(), 48_000, "WAV", "PCM_24"),
        encode(speech(), 48_000, "FLAC"),
        encode(speech(), 22_050, "AIFF"),
        DEMO.read_bytes(),
        mp3(tagged=False),
        mp3(tagged=True),
    ],
    ids=["wav", "wav-stereo", "wav-list", "wav-tail", "wavex", "wav-24", "flac", "aiff", "opus", "mp3", "mp3-tag"],
)
def test_sound_files_on_real_standard_input(data: bytes) -> None:
    done = run_stdin(data)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = read_audio(io.BytesIO(data))
    assert len(expected) > 5_000
    np.testing.assert_allclose(np.frombuffer(done.stdout, np.float32), expected, atol=1e-6)


def test_raw_pcm_on_real_standard_input() -> None:
    pcm = speech_pcm()
    np.testing.assert_array_equal(np.frombuffer(run_stdin(pcm).stdout, np.float32), pcm_values(pcm))
    stereo = np.repeat(np.frombuffer(pcm, "<i2"), 2).tobytes()
    done = run_stdin(stereo + b"\1", 16_000, 2)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), pcm_values(pcm))
    assert b"last 1 bytes" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", b"standard input: nothing came in"),
        (b"fLaC" + bytes(100), b"standard input: not audio"),
        (b"RIFF\0\0\0\0WAVE", b"standard input: not audio"),
        (wav(speech_pcm(), rate=5), b"standard input: a sample rate of 5 Hz"),
    ],
    ids=["nothing", "flac", "wav", "rate"],
)
def test_bad_standard_input_is_one_line(data: bytes, says: bytes) -> None:
    done = run_stdin(data)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert done.stdout == b""


@pytest.mark.parametrize("container", [False, True], ids=["raw", "wav"])
def test_a_slow_pipe_is_heard_before_it_ends(container: bool) -> None:
    pcm = speech_pcm(0.5)
    header = wav(b"", data_size=0xFFFFFFFF) if container else b""
    with subprocess.Popen(
        [sys.executable, "-c", READ_STDIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        received = b""
        process.stdin.write(header[:21])
        process.stdin.write(header[21:] + pcm[:1_001])  # in the middle of a sample
        while len(received) < 500 * 4:
            assert select.select([process.stdout], [], [], 20)[0], "nothing came out while the pipe was open"
            received += process.stdout.read(65_536)
        assert len(received) == 500 * 4
        process.stdin.write(pcm[1_001:])
        process.stdin.close()
        while piece := process.stdout.read(65_536):
            received += piece
    np.testing.assert_array_equal(np.frombuffer(received, np.float32), pcm_values(pcm))


def test_a_wav_pipe_that_breaks_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert len(joined(read_stdin(io.BytesIO(wav(speech_pcm())[:-1_000])))) == 2 * SAMPLE_RATE - 500
    assert "1000 bytes of samples are missing" in caplog.text


# --- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: (x * 32_767).round().astype(np.int16),
        lambda x: (x * 32_767).round().astype(">i2"),
        lambda x: (x.astype(np.float64) * (2**31 - 1)).astype(np.int32),
        lambda x: x,
        lambda x: x.astype(np.float64),
        lambda x: np.stack([x, x], axis=1),
        lambda x: np.repeat(x, 2)[::2],
        lambda x: x[:, None],
        lambda x: x.tolist(),
    ],
    ids=["int16", "big-endian", "int32", "float32", "float64", "stereo", "strided", "column", "list"],
)
def test_arrays_are_converted(convert: Callable[[Floats], Any]) -> None:
    samples = convert_samples(convert(speech()), 16_000)
    assert_audio(samples)
    np.testing.assert_allclose(samples, speech(), atol=6e-5)


@pytest.mark.parametrize("rate", [8_000, 44_100, 44_100.0, np.int64(48_000)])
def test_an_array_is_read_like_the_file_of_it(rate: float) -> None:
    integers = np.frombuffer(speech_pcm(), "<i2")
    samples = convert_samples(integers, rate)
    np.testing.assert_allclose(samples, read_audio(io.BytesIO(wav(speech_pcm(), rate=int(rate)))), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "rate", "says"),
    [
        (np.zeros((2, 3, 4), np.float32), 16_000, "3 dimensions"),
        (np.float32(1.0), 16_000, "0 dimensions"),
        (np.zeros((2, 16_000), np.float32), 16_000, "transposed"),
        (np.zeros((16_000, 0), np.float32), 16_000, "0 channels"),
        (np.zeros(9, np.int64), 16_000, "holds int64"),
        (np.zeros(9, np.uint8), 16_000, "holds uint8"),
        (np.zeros(9, np.complex64), 16_000, "holds complex64"),
        (np.zeros(9, bool), 16_000, "holds bool"),
        (np.array(["a"]), 16_000, "holds <U1"),
        (None, 16_000, "dimensions|holds object"),
        (b"RIFF", 16_000, "bytes are no samples"),
        ([[1.0], [1.0, 2.0]], 16_000, "ragged"),
        (np.zeros(9), 0, "sample rate of 0"),
        (np.zeros(9), np.nan, "sample rate of nan"),
        (np.zeros(9), "16000", "sample rate of 16000"),
        (np.zeros(9), 10_000_000, "sample rate of 10000000"),
        (np.array([0.0, np.nan]), 16_000, "sample at 0.000 s is nan"),
        (np.array([0.0, 1e300]), 16_000, "sample at 0.000 s is inf"),
        (np.array([[0.0, np.inf], [0.0, -np.inf]]), 16_000, "sample at 0.000 s is inf"),
    ],
)
def test_arrays_that_are_no_audio(samples: Any, rate: Any, says: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=says) as caught:
            convert_samples(samples, rate)
    assert_one_line(str(caught.value))


def test_empty_arrays_are_empty() -> None:
    empties: list[Any] = [[], np.zeros((0, 2)), np.zeros(0, np.int16)]
    for empty in empties:
        for rate in (16_000, 44_100):
            samples = convert_samples(empty, rate)
            assert_audio(samples)
            assert len(samples) == 0


# --- what it needs --------------------------------------------------------------------------------------------------


def test_raw_pcm_needs_neither_soundfile_nor_soxr() -> None:
    code = (
        "import io, sys\nfrom edge_stt.audio import convert_samples, read_pcm, read_stdin\nimport numpy as np\n"
        "assert len(next(read_pcm(io.BytesIO(bytes(100))))) == 50\nconvert_samples(np.zeros(9), 16000)\n"
        "list(read_stdin(io.BytesIO(bytes(100))))\n"
        "assert not {'soundfile', 'soxr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(RuntimeMissingError, match="pip install soxr"):
        convert_samples(np.zeros(9), 8_000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(RuntimeMissingError, match="libsndfile1"):
        read_audio(DEMO)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(AudioError, match="TMPDIR"):
        read_audio(io.BytesIO(DEMO.read_bytes()))


def test_with_value_makes_what_its_name_says() -> None:
    """The corpus itself: a good value in place of the bad one is read without complaint."""
    samples = read_audio(io.BytesIO(with_value(0.25, 24_000)))
    assert samples[24_000] == np.float32(0.25)
    assert np.abs(np.delete(samples - speech(), 24_000)).max() == 0.0


@pytest.mark.parametrize("seconds", [0.3, 0.9, 1.5])
def test_a_short_opus_file_is_whole(tmp_path: Path, seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    """libsndfile misses the flag of the last page where that is the only one with sound."""
    path = tmp_path / "short.opus"
    samples = np.random.default_rng(0).normal(0.0, 0.1, round(16_000 * seconds)).astype(np.float32)
    soundfile.write(path, samples, 16_000, format="OGG", subtype="OPUS")
    assert len(read_audio(path)) == len(samples)
    assert caplog.text == ""
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    try:
        read_audio(path)
    except AudioError:
        return
    assert "cut short" in caplog.text


@pytest.mark.parametrize("head", [b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81"])
def test_containers_that_cannot_be_read_are_not_heard_as_samples(head: bytes) -> None:
    with pytest.raises(AudioError, match="of a kind not read here"):
        list(read_stdin(io.BytesIO(head + bytes(64_000))))
