"""Audio in: files, streams, pipes and arrays of any rate and channel count become 16 kHz mono float32.

Containers are read by libsndfile through soundfile (WAV, FLAC, OGG Vorbis, Opus, MP3; AIFF, AU, CAF, NIST), resampled
by soxr; channels are averaged. Both libraries are imported only when needed: raw 16 kHz PCM needs neither.

What is wrong with the input, in one line each:

- not audio, empty (0 bytes), missing, a directory, unreadable, an absurd rate or channel count: `AudioError`;
- samples that are NaN, infinite or beyond any scale: `AudioError` with their time, because the file is damaged and a
  transcript of it would look valid;
- cut short or damaged on the way: what can be decoded is given, and one warning is logged under ``edge_stt.audio``;
- a valid container without samples: an empty result.

Nothing is allocated by a size that a header claims.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import numpy.typing as npt

from .byte_streams import (
    CONTAINERS,
    COPY_BYTES,
    UNKNOWN_WAV_LENGTH,
    ByteStream,
    Rejoined,
    fill,
    mp3_frame_length,
    mp3_states_length,
    open_file,
    printable_path,
    read_some,
    read_wav_header,
    starts_with_mp3_frames,
    stream_name,
)
from .errors import AudioError, RuntimeMissingError
from .features import Floats

SAMPLE_RATE = 16_000  # Hz, of everything this module gives
MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz, accepted: from a poor telephone to studio converters
UNREAD_CONTAINERS = (b"\x1aE\xdf\xa3", b"\x30\x26\xb2\x75", b"#!AMR")  # Matroska and WebM, ASF and WMA, AMR
MAX_CHANNELS = 32
MAX_MAGNITUDE = float(2**31)  # floats on the scale of 32-bit integers are odd but harmless; beyond is damage

READ_FRAMES = 4_096  # a usual FLAC block: what a damaged block costs, and small enough to bound memory at 32 channels
UNKNOWN_FRAMES = 1 << 62  # libsndfile's SF_COUNT_MAX is 2**63 - 1

logger = logging.getLogger(__name__)


def read_audio(source: str | os.PathLike[str] | ByteStream) -> Floats:
    """Read a whole file or binary stream: float32 ``[samples]``, mono, 16 kHz, nominally in -1..1.

    ``source`` is a path or a stream open for reading bytes, which is read to its end and need not be seekable. Raises
    `AudioError` as the module says. The samples are those of `stream_audio`.
    """
    # A bytearray grows in place, so the peak is the audio itself and not twice that, as with a list of blocks.
    buffer = bytearray()
    for block in stream_audio(source):
        buffer += block.tobytes()
    return np.frombuffer(buffer, dtype=np.float32)


def stream_audio(source: str | os.PathLike[str] | ByteStream, block_seconds: float = 10.0) -> Iterator[Floats]:
    """Read like `read_audio` in bounded memory: float32 blocks of ``block_seconds`` at 16 kHz, the last one shorter.

    The samples do not depend on ``block_seconds``. Nothing is opened, and no error raised, before the first block is
    asked for. A named pipe that carries 16-bit PCM in a WAV is decoded while it comes in; other containers on pipes and
    streams are copied to a temporary file first.
    """
    return _in_blocks(_decode(source), max(1, round(block_seconds * SAMPLE_RATE)))


def audio_duration(path: str | os.PathLike[str]) -> float | None:
    """Seconds of audio that the header of a file states, or None when it states none or the file is not readable audio.

    For progress bars: reading the file reports what is wrong with it. An MP3 without a length header has None, for an
    estimate from the bit rate is wrong by any factor.
    """
    name = printable_path(path)
    try:
        if not Path(path).is_file():  # opening a named pipe would take its content away
            return None
        with open_file(path, name) as handle, _open_soundfile(handle.fileno(), name) as file:
            stated = _stated_frames(file, handle.fileno())
            return None if stated is None else stated / float(file.samplerate)
    except (AudioError, OSError):  # OSError: a name too long to ask about
        return None


def read_pcm(
    stream: ByteStream, sample_rate: int = SAMPLE_RATE, channels: int = 1, block_seconds: float = 1.0
) -> Iterator[Floats]:
    """Raw signed 16-bit little-endian PCM, channels interleaved, as float32 ``[n]`` mono blocks at 16 kHz.

    Gives what has arrived as soon as it has, at most ``block_seconds`` at once; so a slow pipe is heard without delay.
    Bytes at the end that do not fill a sample of every channel are left out with a warning. The stream must block.
    """
    name = stream_name(stream)
    _check_format(sample_rate, channels, name)
    frame_bytes = 2 * channels
    wanted = max(1, round(block_seconds * sample_rate)) * frame_bytes

    def pieces() -> Iterator[Floats]:
        rest = b""
        while arrived := read_some(stream, wanted, name):
            data = rest + arrived
            whole = len(data) // frame_bytes
            rest = data[whole * frame_bytes :]
            if whole:
                integers = np.frombuffer(data, dtype="<i2", count=whole * channels)
                yield _mono(_unit_scale(integers).reshape(whole, channels))
        if rest:
            logger.warning("%s: the last %d bytes are no whole 16-bit sample and were left out", name, len(rest))

    yield from _resample(pieces(), sample_rate)


def read_stdin(
    stream: ByteStream | None = None, sample_rate: int = SAMPLE_RATE, channels: int = 1, block_seconds: float = 1.0
) -> Iterator[Floats]:
    """Audio from standard input (or another pipe), whatever it carries, as float32 ``[n]`` mono blocks at 16 kHz.

    A WAV, FLAC, OGG, MP3 or other container is recognised by its first bytes; anything else is raw PCM as `read_pcm`
    takes it, of ``sample_rate`` and ``channels``, which containers state themselves. Raw PCM and 16-bit PCM in a WAV
    come as they arrive; other containers are read to the end first. `AudioError` when nothing comes at all.
    """
    stream = sys.stdin.buffer if stream is None else stream
    yield from _decode_pipe(stream, stream_name(stream), block_seconds, raw_format=(sample_rate, channels))


def convert_samples(samples: npt.ArrayLike, sample_rate: float) -> Floats:
    """An array from elsewhere as float32 ``[samples]`` mono at 16 kHz, sharing memory where nothing has to change.

    Takes ``[samples]`` or ``[samples, channels]`` of int16, int32 (full scale becomes 1) or floats (in -1..1), at
    ``sample_rate`` Hz. Raises `AudioError` for other types and shapes, and for samples that are not finite.
    """
    if sample_rate == SAMPLE_RATE and _is_ready(samples):
        return samples
    name = "the array"
    if isinstance(samples, bytes | bytearray | memoryview):
        raise AudioError("bytes are no samples; give a path, an open file, or numpy.frombuffer(…, numpy.int16)")
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise AudioError("the array is ragged; give samples as [samples] or [samples, channels]") from error
    if array.ndim not in (1, 2):
        raise AudioError(f"the array has {array.ndim} dimensions; give [samples] or [samples, channels]")
    channels = 1 if array.ndim == 1 else array.shape[1]
    if channels > MAX_CHANNELS:
        raise AudioError(
            f"the array has shape {array.shape}, that is {channels} channels (at most {MAX_CHANNELS}); "
            "give [samples, channels], perhaps transposed"
        )
    _check_format(sample_rate, channels, name)
    if array.dtype.kind == "i" and array.dtype.itemsize in (2, 4):
        values = _unit_scale(array)
    elif array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows float32 becomes infinite, which _check_samples reports
            values = array.astype(np.float32, copy=False)
    else:
        raise AudioError(f"the array holds {array.dtype}; give int16, int32, or floats in -1..1")
    mono = _mono(values.reshape(len(values), channels))
    _check_samples(mono, 0, sample_rate, name)
    if sample_rate == SAMPLE_RATE:
        return np.ascontiguousarray(mono)
    return np.concatenate([np.empty(0, dtype=np.float32), *_resample([mono], sample_rate)])


def _is_ready(samples: npt.ArrayLike) -> TypeGuard[Floats]:
    """Whether nothing has to change. Much cheaper to ask than to find out: streams bring every few frames."""
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim != 1 or not len(samples):
        return False
    sound = samples.min() >= -MAX_MAGNITUDE and samples.max() <= MAX_MAGNITUDE  # neither is so where one is NaN
    return bool(sound and samples.flags.c_contiguous)


# --- from a source to mono pieces at 16 kHz -------------------------------------------------------------------------


def _decode(source: str | os.PathLike[str] | ByteStream) -> Iterator[Floats]:
    """Pieces of any length, mono, 16 kHz, of a path or stream."""
    if not isinstance(source, str | os.PathLike):
        yield from _decode_copy(b"", source, stream_name(source))
        return
    name = printable_path(source)
    with open_file(source, name) as handle:
        if stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            yield from _decode_file(handle, name)
        else:
            yield from _decode_pipe(handle, name, block_seconds=1.0)


def _decode_file(handle: BinaryIO, name: str) -> Iterator[Floats]:
    """Pieces of a regular file that is open at its start."""
    fd = handle.fileno()
    if os.fstat(fd).st_size == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes); record or copy it again")
    head = os.pread(fd, 12, 0)
    # libsndfile knows rarer formats, but refusing them keeps its less used readers from hostile or damaged bytes: that
    # of SDS, for one, prints to standard output what it does not like.
    if not (head.startswith(CONTAINERS) or (head[0] == 0xFF and head[1:2] >= b"\xe0")):
        raise _not_audio(name, "format not recognised")
    with _open_soundfile(fd, name) as file:
        _check_format(file.samplerate, file.channels, name)
        if not _is_unclosed_wav(file, fd):
            yield from _resample(_read_pieces(file, fd, name), file.samplerate)
            return
    handle.seek(0)
    wav_format, size, _ = read_wav_header(handle, b"", name)
    if wav_format is None:
        raise AudioError(f"{name}: the recording was never closed and states no length; repair it with sox or ffmpeg")
    logger.warning("%s: the recording was never closed and states no length; read to the end of the file", name)
    yield from read_pcm(Rejoined(b"", handle, size, name), *wav_format)


def _read_pieces(file: Any, fd: int, name: str) -> Iterator[Floats]:
    """Decode an open SoundFile to its end: mono pieces at its own rate. Warns when that comes too early."""
    done = 0
    failed = False
    while True:
        try:
            piece = file.read(READ_FRAMES, dtype="float32", always_2d=True)
        except RuntimeError:  # soundfile's errors, all of them; a decoder that has lost its way
            failed = True
            break
        if len(piece) == 0:
            break
        mono = _mono(piece)
        _check_samples(mono, done, file.samplerate, name)
        yield mono
        done += len(piece)
    stated = _stated_frames(file, fd)
    if done == 0 and (failed or stated):
        raise AudioError(f"{name}: nothing in it can be decoded, it is damaged or cut off; record or copy it again")
    if failed or (stated is not None and done < stated) or _log_tells_of_loss(file.extra_info, fd):
        logger.warning("%s: cut short or damaged; the %.1f s that could be read are used", name, done / file.samplerate)


def _decode_pipe(
    stream: ByteStream, name: str, block_seconds: float, raw_format: tuple[int, int] | None = None
) -> Iterator[Floats]:
    """Pieces of what a pipe carries; ``raw_format`` is the rate and channels of PCM without a container, if allowed."""
    head = fill(stream, b"", 12, name)
    if not head:
        raise AudioError(f"{name}: nothing came in; send a sound file or 16-bit PCM")
    if head.startswith(b"RIFF") and head.endswith(b"WAVE"):
        wav_format, size, head = read_wav_header(stream, head, name)
        if wav_format is not None:
            samples = Rejoined(b"", stream, size, name)
            yield from read_pcm(samples, *wav_format, block_seconds=block_seconds)
            if samples.remaining:
                logger.warning("%s: cut short; %d bytes of samples are missing", name, samples.remaining)
            while read_some(stream, COPY_BYTES, name):
                pass  # chunks after the samples: a writer must not die of a closed pipe
            return
    else:
        frame_length = mp3_frame_length(head)
        if frame_length:
            head = fill(stream, head, frame_length + 4, name)
        if not (head.startswith(CONTAINERS) or starts_with_mp3_frames(head)):
            if raw_format is None or head[4:8] == b"ftyp" or head.startswith(UNREAD_CONTAINERS):
                raise _not_audio(name, "format not recognised")
            yield from read_pcm(Rejoined(head, stream, None, name), *raw_format, block_seconds=block_seconds)
            return
    yield from _decode_copy(head, stream, name)


def _decode_copy(head: bytes, stream: ByteStream, name: str) -> Iterator[Floats]:
    """Pieces of a container that cannot be sought in: ``head`` and the rest of the stream, by way of a temporary file.

    A file even for what would fit in memory: libsndfile then reads a descriptor, where a Python object in between would
    print tracebacks of its own when a damaged header asks for an impossible position.
    """
    try:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed below; OSError here has its own text
    except OSError as error:
        raise AudioError(f"{name}: no temporary file can be made ({error.strerror}); set TMPDIR") from error
    with copy:
        data = head or read_some(stream, COPY_BYTES, name)
        while data:
            try:
                copy.write(data)
            except OSError as error:
                raise AudioError(f"{name}: copying it to {tempfile.gettempdir()} failed ({error.strerror})") from error
            data = read_some(stream, COPY_BYTES, name)
        copy.flush()
        copy.seek(0)
        yield from _decode_file(copy, name)


# --- samples --------------------------------------------------------------------------------------------------------


def _unit_scale(integers: npt.NDArray[Any]) -> Floats:
    """Signed integers as float32, full scale as 1."""
    scale = np.float32(1.0 / (1 << (8 * integers.dtype.itemsize - 1)))
    return np.multiply(integers, scale, dtype=np.float32, casting="unsafe")


def _mono(frames: Floats) -> Floats:
    """``[frames, channels]`` to ``[frames]``: the mean of the channels."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    with np.errstate(all="ignore"):
        mean: Floats = frames.mean(axis=1, dtype=np.float32)
    return mean


def _check_samples(mono: Floats, first: int, rate: float, name: str) -> None:
    """Raise `AudioError` for samples that no recorder writes; ``first`` is where ``mono[0]`` stands in the source."""
    with np.errstate(all="ignore"):
        bad = ~(np.abs(mono) <= MAX_MAGNITUDE)  # so that NaN is bad too
    if bad.any():
        at = int(np.argmax(bad))
        raise AudioError(
            f"{name}: the sample at {(first + at) / rate:.3f} s is {mono[at]}, which no recording holds; "
            "the source is damaged, export it again"
        )


def _resample(pieces: Iterable[Floats], rate: float) -> Iterator[Floats]:
    """Mono pieces at ``rate`` Hz to mono pieces at 16 kHz; ``n`` samples become ``n * 16000 / rate``, rounded."""
    if rate == SAMPLE_RATE:
        yield from pieces
        return
    try:
        import soxr
    except ImportError as error:
        raise RuntimeMissingError(f"resampling from {rate} Hz needs soxr; install it: pip install soxr") from error
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for piece in pieces:
        resampled = resampler.resample_chunk(piece)
        if len(resampled):
            yield resampled
    tail = resampler.resample_chunk(np.empty(0, dtype=np.float32), last=True)
    if len(tail):
        yield tail


def _in_blocks(pieces: Iterator[Floats], length: int) -> Iterator[Floats]:
    """The same samples in blocks of ``length``, the last one shorter and never empty."""
    waiting: list[Floats] = []
    count = 0
    for piece in pieces:
        waiting.append(piece)
        count += len(piece)
        if count >= length:
            joined = np.concatenate(waiting)
            whole = count - count % length
            for start in range(0, whole, length):
                yield joined[start : start + length]
            waiting, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)


def _check_format(rate: float, channels: int, name: str) -> None:
    """Raise `AudioError` for rates and channel counts that are a mistake or damage."""
    if not (isinstance(rate, int | float | np.integer | np.floating) and MIN_RATE <= rate <= MAX_RATE):
        raise AudioError(f"{name}: a sample rate of {rate} Hz cannot be; {MIN_RATE} to {MAX_RATE} Hz are read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: {channels} channels cannot be; 1 to {MAX_CHANNELS} are read, mix them down before")


# --- libsndfile -----------------------------------------------------------------------------------------------------


@contextmanager
def _open_soundfile(fd: int, name: str) -> Iterator[Any]:
    """A `soundfile.SoundFile` on an open descriptor, its errors as `AudioError`.

    By descriptor, because soundfile guesses the format of some names (``.raw``) from their ending.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the Python part is there, libsndfile is not
        raise RuntimeMissingError(
            "sound files need soundfile and libsndfile; install them: pip install soundfile, apt install libsndfile1"
        ) from error
    try:
        # A duplicate to give away: libsndfile 1.2.0 closes what it cannot open, even if told to leave it open.
        file = soundfile.SoundFile(os.dup(fd), closefd=True)
    except RuntimeError as error:
        raise _not_audio(name, str(getattr(error, "error_string", error))) from error
    # soundfile seeks after every read of a seekable file, which restarts lossy decoders: Opus then differs from one
    # decoding in a row (by 1e-3), MP3 reports errors, and truncated FLAC loses what was read.
    file.seekable = lambda: False
    try:
        yield file
    finally:
        with suppress(RuntimeError):
            file.close()


def _not_audio(name: str, reason: str) -> AudioError:
    reason = " ".join(reason.split()).rstrip(".") or "no reason given"
    return AudioError(
        f"{name}: not audio, damaged, or of a kind not read here ({reason}); "
        "WAV, FLAC, OGG, Opus and MP3 are, so convert it: ffmpeg -i FILE -ar 16000 -ac 1 out.wav"
    )


def _stated_frames(file: Any, fd: int) -> int | None:
    """Frames that the header of an open SoundFile states, or None."""
    if file.format == "MP3" and not mp3_states_length(fd):
        return None
    if _is_unclosed_wav(file, fd) or not 0 <= file.frames < UNKNOWN_FRAMES:
        return None
    return int(file.frames)


def _is_unclosed_wav(file: Any, fd: int) -> bool:
    """Whether a WAV states no samples where there are some: its recorder was killed before it wrote the length."""
    empty = file.format in ("WAV", "WAVEX") and file.frames == 0
    return empty and os.fstat(fd).st_size > READ_FRAMES and not _is_chain_of_chunks(fd)


def _is_chain_of_chunks(fd: int) -> bool:
    """Whether a WAV is chunks, each as long as it says, to its very end: samples that nobody counted would not be."""
    size = os.fstat(fd).st_size
    order = ">" if os.pread(fd, 4, 0) == b"RIFX" else "<"
    position = 12  # after RIFF, size, WAVE
    while position + 8 <= size:
        kind, length = struct.unpack(f"{order}4sI", os.pread(fd, 8, position))
        if not all(0x20 <= byte < 0x7F for byte in kind):
            return False
        end = position + 8 + length
        position = end + length % 2
    return size in (position, end)  # the last filling byte is often missing


def _log_tells_of_loss(log: str, fd: int) -> bool:
    """Whether libsndfile's log of the header says that samples are missing, which it mends in silence."""
    for stated in re.findall(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be \d+\)", log, flags=re.MULTILINE):
        if int(stated) < UNKNOWN_WAV_LENGTH:
            return True
    # libsndfile 1.2 says so too of a stream whose only page of sound is its last one.
    return "without an End-Of-Stream flag" in log and not _ogg_says_it_ends(fd)


LONGEST_OGG_PAGE = 65_307  # RFC 3533


def _ogg_says_it_ends(fd: int) -> bool:
    """Whether the last page of an Ogg file is whole and has the flag that the stream ends with it."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, LONGEST_OGG_PAGE, max(0, size - LONGEST_OGG_PAGE))
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27]
    if page < 0 or len(header) < 27 or not header[5] & 4:
        return False
    segments = tail[page + 27 : page + 27 + header[26]]
    return len(tail) - page >= 27 + header[26] + sum(segments)
